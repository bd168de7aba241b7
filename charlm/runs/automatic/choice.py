"""Settings that charlm chooses for a text, a device and a budget, with the reasons.

Fields that the user has set stay as they are, and the others are chosen to fit them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from charlm.config.load import check_config, load_config, override
from charlm.config.schema import Config
from charlm.runs.automatic.fields import DROPOUT_FIELDS, model_fields, training_fields
from charlm.runs.automatic.plan import Plan, make_plan
from charlm.runs.automatic.reasons import make_reasons, text_line
from charlm.runs.automatic.recipes import MIN_WEIGHT_DECAY, recipe_for
from charlm.runs.automatic.text import TextFacts, inspect_text, text_override

if TYPE_CHECKING:  # They import torch.
    from charlm.runs.automatic.speed import Speed
    from charlm.runs.warm_start import Ancestor

# A training that starts from trained weights (`--from`) has this fraction of the peak rate of
# random ones, and mixes in this fraction of old text, which costs nothing on the new text.
_TRAINED_RATE = 0.3
_REPLAY = 0.1


class ChosenConfig(NamedTuple):
    """A chosen configuration.

    Attributes:
        config: The complete configuration.
        reasons: One line each about text, network, training and dropout.
    """

    config: Config
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """Return the reasons, one on a line."""
        return "\n".join(self.reasons)

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """Show the reasons in a notebook, where tuples have no other method."""
        printer.text(str(self))


def choose(
    overrides: Sequence[str] = (),
    *,
    speed: "Speed | None" = None,
    ancestor: "Ancestor | None" = None,
) -> ChosenConfig:
    """Choose the fields of a configuration that `overrides` leave open.

    Args:
        overrides: Fields as `section.key=value`, with the text and the budget among them.
        speed: Function from the hidden size to the tokens per second of training on this device.
            By default it is measured, which takes about two seconds, or four if n-grams are
            considered; if a network is set whose steps take seconds, about six of these steps.
        ancestor: Run that the weights come from: network and tokenizer are those of this run.

    Raises:
        CharlmError: An override is wrong, or the text cannot be read.
    """
    config = load_config(None, overrides)
    if ancestor is not None:
        from charlm.runs.warm_start import inherit

        config = inherit(config, ancestor)
    inspection = inspect_text(config)
    text = inspection.text
    from charlm.runs.automatic.device import device_speed  # It imports torch.

    plan = make_plan(config, text, speed or device_speed(config, text))
    fields = {
        "corpus": inspection.corpus_fields,
        "task": config.task.model_dump(exclude_unset=True),
        "tokenizer": {"level": text.level} if ancestor is None else config.tokenizer.model_dump(),
        **_chosen_fields(config, text, plan, ancestor),
    }
    later = [text_override(inspection)]
    if plan.stops_early:
        later.append(f"training.epochs={plan.passes}")
    chosen = check_config(override(fields, [*overrides, *later]), "chosen")
    origin = None if ancestor is None else ancestor.folder
    return ChosenConfig(config=chosen, reasons=make_reasons(config, text, plan, chosen, origin))


def choose_reading_of_text(overrides: Sequence[str] = ()) -> ChosenConfig:
    """Choose only how a text is read and split, as `choose` does; other fields keep their defaults.

    Raises:
        CharlmError: An override is wrong, or the text cannot be read.
    """
    inspection = inspect_text(load_config(None, overrides))
    fields = {"corpus": inspection.corpus_fields}
    chosen = check_config(override(fields, [*overrides, text_override(inspection)]), "chosen")
    return ChosenConfig(config=chosen, reasons=(text_line(inspection.text),))


def _chosen_fields(
    config: Config, text: TextFacts, plan: Plan, ancestor: "Ancestor | None"
) -> dict[str, dict[str, Any]]:
    """Return the fields that follow from a plan, by sections of the configuration.

    Args:
        config: Configuration, of which some fields are set.
        text: Facts about the text.
        plan: Size of the network and length of the training.
        ancestor: Run whose network and weights `config` has; None for a new network.
    """
    recipe = recipe_for(text)
    model = model_fields(config, recipe, plan)
    if ancestor is None:
        return {
            "model": model,
            "training": training_fields(config, recipe, plan, text),
        }
    recipe = replace(
        recipe,
        learning_rate=_TRAINED_RATE * recipe.learning_rate,
        max_weight_decay=MIN_WEIGHT_DECAY,
    )
    training = training_fields(config, recipe, plan, text)
    can_replay = not config.task.has_pairs and ancestor.can_be_replayed()
    return {
        "model": config.model.model_dump() | {name: model[name] for name in DROPOUT_FIELDS},
        "training": training | ({"replay": _REPLAY} if can_replay else {}),
    }
