"""The fields of the sections `model` and `training` that follow from a plan."""

from typing import Any

from charlm.config.model import Model as ModelSection
from charlm.config.schema import Config
from charlm.runs.automatic.plan import MANY_STEPS, Plan
from charlm.runs.automatic.recipes import Recipe
from charlm.runs.automatic.text import TextFacts

NGRAMS = 4  # Length of the longest n-grams, where they are used.
DROPOUT_FIELDS = ("output_dropout", "embedding_dropout")
# Fields that change the speed of a network, and stay if they are set. So does `num_layers`, which
# follows from a list of hidden sizes where it is not set.
_ARCHITECTURE = {
    *("cell", "block", "mlp_expansion", "mixture"),
    *("embedding_size", "ngram_buckets", "ngram_width"),
}
# With fewer passes, streams that begin at other places in each pass were not measured.
_MIN_PASSES_SHUFFLED = 8.0


def model_fields(config: Config, recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """Return the fields of the section `model`.

    Args:
        config: Configuration, of which some fields are set.
        recipe: Recipe for the text.
        plan: Size of the network and length of the training.
    """
    model = config.model
    has_labels = config.task.has_labels
    can_be_tied = model.embedding == "learned" and not (model.adaptive_cutoffs or has_labels)
    dropout = recipe.output_dropout(plan.passes)
    ngrams = NGRAMS if plan.passes <= recipe.passes_with_ngrams else 0
    return {
        **network_fields(model, recipe, plan.hidden_size, ngrams),
        "tied": recipe.tokens_are_words and can_be_tied,
        "output_dropout": dropout,
        "embedding_dropout": round(max(0.0, dropout - 0.25), 2),
        "direction": direction(config),
    }


def direction(config: Config) -> str:
    """Return the direction that is set; else `both` for a label per token."""
    is_open = "direction" not in config.model.model_fields_set
    return "both" if is_open and config.task.kind == "tag" else config.model.direction


def network_fields(
    model: ModelSection, recipe: Recipe, hidden_size: int, ngrams: int
) -> dict[str, Any]:
    """Return the fields of a network that its speed depends on; those that are set stay.

    Args:
        model: Network, of which some fields are set.
        recipe: Recipe for the text.
        hidden_size: Number of units.
        ngrams: Length of the longest n-grams; 0 for none.
    """
    # The residual stream of blocks has the size of the embedding.
    is_wide = recipe.tokens_are_words or model.block != "none"
    return {
        "num_layers": model.num_layers,
        "hidden_size": hidden_size,
        "embedding_size": hidden_size if is_wide else max(16, hidden_size // 4),
        "ngrams": ngrams,
        **model.model_dump(include=_ARCHITECTURE, exclude_unset=True),
    }


def training_fields(config: Config, recipe: Recipe, plan: Plan, text: TextFacts) -> dict[str, Any]:
    """Return the fields of the section `training`, but not its budget.

    Args:
        config: Configuration, of which some fields are set.
        recipe: Recipe for the text.
        plan: Size of the network and length of the training.
        text: Facts about the text.
    """
    steps = plan.steps(text)
    fields: dict[str, Any] = {
        "batch_size": plan.shape.batch_size,
        "window": recipe.window,
        "optimizer": recipe.optimizer,
        "warmup_steps": round(min(100, steps / 10)),
        "clipnorm": 1.0 if config.task.kind == "classify" else float(plan.shape.length),
        "evaluations": 20 if steps > MANY_STEPS else 10 if plan.stops_early else 5,
        "partial_shuffle": text.mode == "stream" and plan.passes >= _MIN_PASSES_SHUFFLED,
    }
    is_open = "optimizer" not in config.training.model_fields_set
    if is_open or config.training.optimizer == recipe.optimizer:
        # The recipe's rate and weight decay do not suit another optimizer.
        rate = recipe.peak_rate(plan.hidden_size, steps, plan.passes)
        fields["learning_rate"] = rate
        fields["weight_decay"] = recipe.weight_decay(plan.passes, steps, rate)
    return fields
