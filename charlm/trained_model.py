"""A trained model with all that it was trained with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from charlm.config.corpus import Mode
from charlm.config.model import Model as ModelSection
from charlm.config.schema import ResolvedConfig
from charlm.data.tokenizer import Tokenizer
from charlm.errors import CharlmError, CheckpointError, OptionError
from charlm.model.any_model import AnyModel
from charlm.model.fast.int8 import has_int8_products, with_int8_products
from charlm.model.language_model import LanguageModel
from charlm.model.translation_model import TranslationModel
from charlm.model.uninitialized import uninitialized
from charlm.runs.checkpoint import load_run_weights, load_weights
from charlm.runs.experiment import Experiment
from charlm.runs.files import CheckpointName
from charlm.runs.folder import RunFiles, load_run
from charlm.runs.verify import budget_of
from charlm.training.devices import choose_device
from charlm.version import VERSION

Model = TypeVar("Model", bound=AnyModel)
_CANNOT_WRITE = (
    "it cannot write a text from one end to the other; let it fill a gap: charlm sample --fill "
    '"The ____ were full."'
)


@dataclass(frozen=True)
class Origin:
    """The run that a trained model comes from.

    Attributes:
        folder: Run folder.
        which: Checkpoint, `best` or `last`.
        corpus: Facts about the corpus: title, parts, fingerprints, frequency of each token in the
            training text. Empty for a model that is still being trained.
        state: Facts about the checkpoint, such as `step` and `seconds`.
    """

    folder: Path
    which: CheckpointName
    corpus: dict[str, Any]
    state: dict[str, Any]


@dataclass(frozen=True)
class Trained(Generic[Model]):
    """A trained model with its tokenizer and configuration.

    Attributes:
        model: Model in evaluation mode, on `device`.
        tokenizer: Tokenizer learned from the run's training text.
        config: Resolved configuration.
        device: Device of the model.
        origin: Run that the model comes from.
    """

    model: Model
    tokenizer: Tokenizer
    config: ResolvedConfig
    device: torch.device
    origin: Origin

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.origin.folder

    @property
    def mode(self) -> Mode:
        """How the model reads a text: as one stream or as independent records."""
        return self.config.corpus.mode

    @property
    def writes_records(self) -> bool:
        """Whether the model ends a text with <EOS>."""
        return self.mode == "records"

    @property
    def reads_lines(self) -> bool:
        """Whether each line is a record."""
        return self.mode == "records" and self.config.corpus.record == "line"

    @property
    def record_separator(self) -> str | None:
        """What the corpus has between two records; None if it has nothing, or no records."""
        if self.mode == "stream":
            return None
        return "\n" if self.reads_lines else self.config.corpus.separator

    @property
    def budget(self) -> tuple[str, float]:
        """Unit and amount of the budget of the training at the time of this checkpoint."""
        return budget_of(self.origin.state, self.config.training)

    @property
    def is_forward(self) -> bool:
        """Whether the model reads a text from its beginning, and only so."""
        return self.model.direction == "forward"


class TrainedModel(Trained[LanguageModel]):
    """A trained language model."""


class TrainedTranslator(Trained[TranslationModel]):
    """A trained encoder and decoder."""


_AnyTrained = TypeVar("_AnyTrained", bound=Trained[Any])


class LanguageModelRequiredError(CharlmError):
    """A model of a task where a model of whole texts is needed.

    Attributes:
        folder: Run folder of the model.
        kind: Its task.
    """

    def __init__(self, folder: Path, config: ResolvedConfig) -> None:
        """Make an error about the run in a folder."""
        kind = config.task.kind
        problem = f"the run writes targets of sources (task {kind}), and predicts no whole text"
        method = "charlm.load_translator" if kind == "translate" else "Run.complete"
        remedy = f"charlm sample --source (in Python {method}) for new sources"
        if config.task.has_labels:
            problem = f"the run labels texts (task {kind}), and neither writes nor predicts one"
            remedy = "charlm predict (in Python charlm.load_labels) for new texts"
        super().__init__(f"{folder}: {problem}; use {remedy}, and charlm eval task for its score")
        self.folder = folder
        self.kind = kind


def load(folder: Path, which: CheckpointName, device: str) -> TrainedModel:
    """Load a trained model. Nothing in the run folder is executed.

    Args:
        folder: Run folder.
        which: `best` by validation loss, or `last`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, independent of the device of the training.

    Raises:
        CheckpointError: The folder is no run folder, or is damaged.
        LanguageModelRequiredError: The model has labels, or an encoder and a decoder.
    """
    run = load_run(folder)
    if run.head is not None:
        raise LanguageModelRequiredError(folder, run.config)
    return load_trained(TrainedModel, run, LanguageModel, folder, which, choose_device(device))


def load_translator(folder: Path, which: CheckpointName, device: str) -> TrainedTranslator:
    """Load a trained encoder and decoder; arguments and exceptions as for `load`."""
    run = load_run(folder)
    task = run.config.task
    if task.kind != "translate":
        raise CharlmError(
            f"{folder}: has no decoder (task {task.kind}); train one with charlm train PAIRS "
            "--task translate"
        )
    make = partial(TranslationModel, task=task)
    return load_trained(TrainedTranslator, run, make, folder, which, choose_device(device))


def load_trained(
    kind: Callable[..., _AnyTrained],
    run: RunFiles,
    make: Callable[[ModelSection, int], AnyModel],
    folder: Path,
    which: CheckpointName,
    device: torch.device,
) -> _AnyTrained:
    """Return a trained model with the weights of a checkpoint.

    Args:
        kind: Class of the trained model, or a function with the fields of `Trained` as arguments.
        run: Files of the run folder.
        make: Function that makes the model from its section and the size of the vocabulary.
        folder: Run folder.
        which: As for `load`.
        device: Device for the weights.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
    """
    which = present_checkpoint(folder, which)
    use_last = "load it with --checkpoint last, in Python which='last'"
    saved = load_run_weights(run, folder, which, use_last=use_last)
    model = uninitialized(make, run.config.model, run.tokenizer.vocabulary_size)
    load_weights(model, saved.weights, saved.folder)
    model.to(device).eval()
    return kind(
        model=model,
        tokenizer=run.tokenizer,
        config=run.config,
        device=device,
        origin=Origin(folder, which, run.corpus, saved.state),
    )


def present_checkpoint(folder: Path, which: CheckpointName) -> CheckpointName:
    """Return `last` instead of `best` if the training stopped before its first evaluation.

    Raises:
        OptionError: There is no checkpoint of that name.
        CheckpointError: There is no checkpoint at all.
    """
    if which not in ("best", "last"):
        raise OptionError("which", "must be best or last", value=which)
    if not any((folder / name).is_dir() for name in ("best", "last")):
        raise CheckpointError(
            f"{folder}: has no checkpoint; name another run (of the trials of a search, only the "
            "best one keeps its checkpoints)"
        )
    is_present = (folder / which / "state.json").is_file()
    return which if is_present else "last"


def with_int8(trained: TrainedModel) -> TrainedModel:
    """Return a trained model that computes its products in int8, with the same weights.

    Raises:
        OptionError: The model is not on the processor.
    """
    if trained.device.type != "cpu":
        raise OptionError("int8", "products are computed by the processor; choose the device cpu")
    return TrainedModel(
        model=with_int8_products(trained.model),
        tokenizer=trained.tokenizer,
        config=trained.config,
        device=trained.device,
        origin=trained.origin,
    )


def of_experiment(experiment: Experiment) -> TrainedModel:
    """Return the model of a training as it is now; the caller puts it into evaluation mode.

    Raises:
        LanguageModelRequiredError: It is no language model.
    """
    if not isinstance(experiment.model, LanguageModel):
        raise LanguageModelRequiredError(experiment.folder, experiment.config)
    return TrainedModel(
        model=experiment.model,
        tokenizer=experiment.tokenizer,
        config=experiment.config,
        device=experiment.hardware.device,
        origin=Origin(experiment.folder, "last", {}, {"step": experiment.state.step}),
    )


def require_one_direction(trained: TrainedModel, problem: str = _CANNOT_WRITE) -> None:
    """Raise CharlmError if a model reads in both directions; `problem` ends with the remedy."""
    if trained.model.direction == "both":
        raise CharlmError(f"{trained.folder}: the model reads in both directions, so {problem}")


def require_language_model(trained: TrainedModel) -> None:
    """Raise LanguageModelRequiredError if a model predicts only the targets of sources."""
    if trained.config.task.has_pairs:
        raise LanguageModelRequiredError(trained.folder, trained.config)


def provenance(trained: Trained[Any]) -> dict[str, Any]:
    """Return the facts about a trained model that each of its scores depends on."""
    return {
        "run": str(trained.folder),
        "checkpoint": trained.origin.which,
        "step": trained.origin.state["step"],
        **tokenizer_settings(trained.tokenizer),
        "mode": trained.mode,
        **({"record": "document"} if trained.writes_records and not trained.reads_lines else {}),
        "direction": trained.config.model.direction,
        "device": str(trained.device),
        **({"products": "int8"} if has_int8_products(trained.model) else {}),
        "training_seed": trained.config.training.seed,
        "version": VERSION,
    }


def tokenizer_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the level of the tokens, and what they leave out of a text."""
    section = tokenizer.section
    return {
        "level": section.level,
        "lowercase": section.lowercase,
        "normalization": section.normalization,
        "spaces": "collapsed" if tokenizer.separates_by_space else "kept",
    }
