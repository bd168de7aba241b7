"""Settings that change nothing in a training."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from charlm.config.schema import ResolvedConfig
from charlm.config.section import Section
from charlm.model.cells.base import Cell


class _Setting(NamedTuple):
    """A setting that not every training uses.

    Attributes:
        section: Name of its section.
        name: Name of the setting.
        is_used: Whether this training uses it.
        reason: Why not, if it does not.
    """

    section: str
    name: str
    is_used: bool
    reason: str


def settings_without_effect(config: ResolvedConfig, layers: Sequence[Cell]) -> Iterator[str]:
    """Yield a line about each setting that is not at its default and changes nothing.

    Args:
        config: Configuration of the training.
        layers: Recurrent layers of the model.
    """
    for setting in _settings(config, layers):
        section: Section = getattr(config, setting.section)
        if not setting.is_used and not section.has_default(setting.name):
            place = f"{setting.section}.{setting.name}"
            yield f"{place}: has no effect, because {setting.reason}; remove it"


def _settings(config: ResolvedConfig, layers: Sequence[Cell]) -> Iterator[_Setting]:
    """Yield the settings that not every training uses."""
    model, training = config.model, config.training
    split = config.corpus.split
    yield _Setting(
        "corpus", "split_seed", split == "shuffled", f"corpus.split is {split}, not shuffled"
    )
    yield _Setting(
        "tokenizer",
        "eos",
        config.tokenizer.words != "whitespace",
        "with tokenizer.words: whitespace, each line ends with <EOS>",
    )
    yield _Setting(
        "model",
        "dropout",
        len(layers) > 1 or model.block != "none",
        "it acts between layers, and there is one",
    )
    yield _Setting(
        "model",
        "weight_dropout",
        any(True for layer in layers for _ in layer.state_products()),
        f"{model.cell.kind} has no recurrent weights",
    )
    yield _Setting(
        "training",
        "label_smoothing",
        not model.adaptive_cutoffs,
        "an adaptive softmax ignores it",
    )
    for name in ("vary_window", "partial_shuffle", "restart_windows"):
        yield _Setting("training", name, config.corpus.mode == "stream", "the mode is records")
    for name, user, value in (
        ("average_steps", "averaging", "exponential"),
        ("trigger_evaluations", "averaging", "triggered"),
        ("halvings", "on_divergence", "halve"),
    ):
        is_used = getattr(training, user) == value
        yield _Setting("training", name, is_used, f"training.{user} is not {value}")
