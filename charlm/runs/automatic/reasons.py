"""The reasons for a choice: one line each about text, network, training and dropout."""

from pathlib import Path

from charlm.config.model import Model as ModelSection
from charlm.config.schema import Config
from charlm.config.tokenizer import TOKEN_NAMES
from charlm.config.training import Training as TrainingSection
from charlm.errors import counted
from charlm.runs.automatic.fields import DROPOUT_FIELDS
from charlm.runs.automatic.plan import Plan
from charlm.runs.automatic.recipes import recipe_for
from charlm.runs.automatic.text import TextFacts


def make_reasons(
    config: Config, text: TextFacts, plan: Plan, chosen: Config, origin: Path | None
) -> tuple[str, ...]:
    """Return one line each about text, network, training and dropout.

    Args:
        config: Configuration before the choice.
        text: Facts about the text.
        plan: Size of the network and length of the training.
        chosen: Configuration after the choice.
        origin: Run folder that the weights come from; None for random weights.
    """
    return (
        text_line(text),
        _network_line(config, text, chosen.model, origin),
        _training_line(config.training, text, plan, chosen.training),
        _dropout_line(config.model, text, plan, chosen.model, origin),
    )


def text_line(text: TextFacts) -> str:
    """Return the line about a text: its tokens, and how it is read."""
    return f"text: {text.title}, split into {TOKEN_NAMES[text.level]}; {text.reading}"


def _network_line(config: Config, text: TextFacts, model: ModelSection, origin: Path | None) -> str:
    given = config.model.model_fields_set
    reason = f"the largest size that suits {_budget(config.training)} and this text"
    if "hidden_size" in given:
        reason = "as set" if origin is None else f"those of {origin}"
    line = f"network: {', '.join(map(str, model.hidden_size))} units, {reason}"
    if model.ngrams:
        line += f"; with embeddings of the last 2 to {model.ngrams} {TOKEN_NAMES[text.level]}"
        if "ngrams" not in given:
            most = recipe_for(text).passes_with_ngrams
            line += f", because the text is read at most {most:g} times"
    return line


def _training_line(
    given: TrainingSection, text: TextFacts, plan: Plan, training: TrainingSection
) -> str:
    parts = "streams" if text.mode == "stream" else "records"
    about = "about " if given.steps is None else ""
    line = (
        f"training: {about}{counted(round(plan.steps(text)), 'step')} of {training.batch_size} "
        f"{parts} x {plan.shape.length} tokens, peak learning rate {training.learning_rate:.2g}, "
        f"{_passes(plan)}"
    )
    if not plan.stops_early:
        return line
    return (
        f"{line}; on a small text, training stops after these passes, and not after "
        f"{_budget(given)}, so that the model does not memorize it"
    )


def _dropout_line(
    given: ModelSection, text: TextFacts, plan: Plan, model: ModelSection, origin: Path | None
) -> str:
    # In the network of an ancestor every field has a value, but dropout is chosen anew.
    is_set = given.model_fields_set if origin is None else set()
    fractions = (
        f"{getattr(model, field):.2g} of the {field.removesuffix('_dropout')}"
        + (" (as set)" if field in is_set else "")
        for field in DROPOUT_FIELDS
    )
    reason = "because little of the text is read more than once"
    if recipe_for(text).output_dropout(plan.passes):
        reason = f"because of {_passes(plan)}"
    return f"dropout: {', '.join(fractions)}, {reason}"


def _passes(plan: Plan) -> str:
    """Return the number of passes in words: a digit after the point, or two digits if below 1."""
    passes = f"{plan.passes:.1f}" if plan.passes >= 1 else f"{plan.passes:.2g}"
    return f"{passes} passes over the text"


def _budget(training: TrainingSection) -> str:
    """Return the budget in words, such as `5 minutes`."""
    unit, amount = training.budget
    return counted(amount, unit.removesuffix("s"))
