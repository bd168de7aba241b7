"""Settings that change nothing in a training."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from charlm.config.schema import ResolvedConfig
from charlm.config.section import Section
from charlm.model.cells.base import Cell


class _Setting(NamedTuple):
    """A setting that not every training uses.

    Attributes:
        place: Its section and its name.
        is_used: Whether this training uses it.
        reason: Why not, if it does not.
    """

    place: str
    is_used: bool
    reason: str


def settings_without_effect(config: ResolvedConfig, layers: Sequence[Cell]) -> Iterator[str]:
    """Yield a line about each setting that is not at its default and changes nothing.

    Args:
        config: Configuration of the training.
        layers: Recurrent layers of the model.
    """
    for setting in (*_settings_of_model(config, layers), *_settings_of_training(config)):
        name_of_section, name = setting.place.split(".")
        section: Section = getattr(config, name_of_section)
        if not setting.is_used and not section.has_default(name):
            yield f"{setting.place}: has no effect, because {setting.reason}; remove it"


def _settings_of_model(config: ResolvedConfig, layers: Sequence[Cell]) -> Iterator[_Setting]:
    """Yield the settings of text and network that not every training uses."""
    model, split = config.model, config.corpus.split
    yield _Setting(
        "corpus.split_seed", split == "shuffled", f"corpus.split is {split}, not shuffled"
    )
    yield _Setting(
        "tokenizer.eos",
        config.tokenizer.words != "whitespace",
        "with tokenizer.words: whitespace, each line ends with <EOS>",
    )
    yield _Setting(
        "model.dropout",
        len(layers) > 1 or model.block != "none",
        "it acts between layers, and there is one",
    )
    yield _Setting(
        "model.weight_dropout",
        any(True for layer in layers for _ in layer.state_products()),
        f"{model.cell.kind} has no recurrent weights",
    )


def _settings_of_training(config: ResolvedConfig) -> Iterator[_Setting]:
    """Yield the settings of the section `training` that not every training uses."""
    training = config.training
    is_stream = config.corpus.mode == "stream"
    for name in ("vary_window", "partial_shuffle", "restart_windows"):
        yield _Setting(f"training.{name}", is_stream, "the mode is records")
    for name, user, value in (
        ("average_steps", "averaging", "exponential"),
        ("trigger_evaluations", "averaging", "triggered"),
        ("halvings", "on_divergence", "halve"),
    ):
        is_used = getattr(training, user) == value
        yield _Setting(f"training.{name}", is_used, f"training.{user} is not {value}")
    for name, optimizer in (("beta1", "rmsprop"), ("beta2", "sgd")):
        is_used = training.optimizer != optimizer
        yield _Setting(f"training.{name}", is_used, f"{optimizer} does not have it")
    is_adaptive = bool(config.model.adaptive_cutoffs)
    yield _Setting("training.label_smoothing", not is_adaptive, "an adaptive softmax ignores it")
    yield from _settings_of_evaluations(config)


def _settings_of_evaluations(config: ResolvedConfig) -> Iterator[_Setting]:
    """Yield the settings that act on a training by its validation losses."""
    training = config.training
    is_triggered = training.averaging == "triggered"
    has_losses = bool(config.corpus.valid_share or config.corpus.valid_text)
    for name, needs_losses in (
        ("patience", True),
        ("averaging", is_triggered),
        ("schedule", training.schedule == "plateau"),
    ):
        is_used = has_losses or not needs_losses
        yield _Setting(f"training.{name}", is_used, "the text has no validation part")
    # The trigger can act at evaluation N + 1 at the earliest, and the mean begins after it.
    least = training.trigger_evaluations + 2
    yield _Setting(
        "training.averaging",
        training.evaluations >= least or not is_triggered or not has_losses,
        f"triggered needs training.evaluations={least} at least, got {training.evaluations}",
    )
