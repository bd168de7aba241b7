"""A training run in memory, and the events that it yields."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from charlm.config.schema import ResolvedConfig
from charlm.data.cards import Part
from charlm.data.corpus import Corpus
from charlm.data.labels import Labels
from charlm.data.replay import Replay
from charlm.data.spelling import Restoration, restoration_of
from charlm.data.tokenizer import Tokenizer
from charlm.data.tokens import Tokens
from charlm.data.windows.directions import read_in_direction
from charlm.data.windows.records import record_windows
from charlm.data.windows.streams import StreamOptions, stream_windows
from charlm.data.windows.window import Window
from charlm.model.any_model import AnyModel
from charlm.runs.old_text import OldText
from charlm.runs.step_metrics import StepMetrics
from charlm.storage.locks import ProcessLock
from charlm.training.averaging import Average
from charlm.training.devices import Hardware
from charlm.training.loop import Progress, TrainingState
from charlm.training.loss import Score
from charlm.training.process_group import SINGLE_PROCESS, Group


@dataclass(frozen=True)
class Experiment:
    """Everything that a training run needs.

    Attributes:
        folder: Run folder.
        config: Resolved configuration.
        corpus: Text by parts.
        tokenizer: Tokenizer, learned from the training part.
        tokens: Token ids by parts.
        model: Model, on the device of `hardware`.
        optimizer: Optimizer of the model's parameters.
        average: Average of the weights over the steps. If there is one, it is scored and saved as
            the best model, instead of the weights of the last step.
        state: Progress of the training, changed in place.
        step_metrics: Metrics of the steps since the last evaluation, changed in place.
        hardware: Device and precision of the model.
        lock: Lock of the run folder. The first process of the group holds it from the beginning
            to the end of the training.
        group: Processes that train together, with this process as one of them.
        vectors_fraction: Fraction of the vocabulary for which the file of vectors had a vector;
            None without such a file and after resuming.
        notices: What the user should know before the training begins, one line each.
        ancestor: Facts about the run whose weights the training started from; None without one.
        old_text: Text of that run, to score and to replay; None if it is not at hand.
        labels: Labels that the model chooses from; empty for a task without labels.
    """

    folder: Path
    config: ResolvedConfig
    corpus: Corpus
    tokenizer: Tokenizer
    tokens: dict[Part, Tokens]
    model: AnyModel
    optimizer: torch.optim.Optimizer
    average: Average
    state: TrainingState
    step_metrics: StepMetrics
    hardware: Hardware
    lock: ProcessLock
    group: Group = SINGLE_PROCESS
    vectors_fraction: float | None = None
    notices: tuple[str, ...] = ()
    ancestor: dict[str, Any] | None = None
    old_text: OldText | None = None
    labels: Labels = ()

    @cached_property
    def valid_restoration(self) -> Restoration:
        """The cost of restoring the validation text from its tokens."""
        return restoration_of(
            self.corpus.parts["valid"],
            self.tokenizer,
            self.corpus.mode,
            unknown=self.tokens["valid"].counts.unknown,
        )


@dataclass(frozen=True)
class Prepared:
    """Training is about to begin.

    Attributes:
        experiment: The training run.
    """

    experiment: Experiment


@dataclass(frozen=True)
class Evaluated:
    """The model was scored on the validation split.

    It is saved as soon as saving takes no more than its fraction of the time.

    Attributes:
        experiment: The training run. Until training continues, its model has the weights that were
            scored: the averaged ones, if there are any.
        score: Score on the validation split; None without a validation split.
        metrics: The line added to metrics.jsonl.
        is_best: Whether the model is the best so far.
    """

    experiment: Experiment = field(repr=False)
    score: Score | None
    metrics: dict[str, Any]
    is_best: bool


@dataclass(frozen=True)
class Halved:
    """Training diverged and continues from the last good evaluation with half the learning rate.

    Attributes:
        experiment: The training run, as it was at that evaluation, or at the beginning.
        message: The step, and what was not finite.
        metrics: The line added to metrics.jsonl.
    """

    experiment: Experiment
    message: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Sampled:
    """The model has written a text after an evaluation.

    Attributes:
        step: Number of optimization steps.
        text: The text.
    """

    step: int
    text: str


@dataclass(frozen=True)
class Notice:
    """Something that the user should know about the training.

    Attributes:
        message: One line.
    """

    message: str


@dataclass(frozen=True)
class Finished:
    """Training has ended and is saved.

    Attributes:
        experiment: The training run.
        reason: `budget` (spent), `patience` (no new best) or `stopped` (on request).
    """

    experiment: Experiment
    reason: str


Event = Prepared | Progress | Evaluated | Sampled | Halved | Notice | Finished
Events = Generator[Event, None, None]


def training_windows(experiment: Experiment) -> Iterator[Window]:
    """Return the windows of the training text from the current position on, without end."""
    if experiment.corpus.mode == "stream":
        return _stream_windows(experiment)
    return _record_windows(experiment)


def _stream_windows(experiment: Experiment) -> Iterator[Window]:
    section = experiment.config.training
    return stream_windows(
        experiment.tokens["train"].ids,
        batch_size=section.batch_size,
        window=section.window,
        start=experiment.state.position,
        options=StreamOptions(
            seed=section.seed,
            vary=section.vary_window,
            shuffle=section.partial_shuffle,
            restart_windows=section.restart_windows,
            direction=experiment.model.direction,
        ),
        replay=_replay(experiment),
        shard=experiment.group.shard,
    )


def _record_windows(experiment: Experiment) -> Iterator[Window]:
    section = experiment.config.training
    tokens = experiment.tokens["train"]
    read = partial(
        record_windows,
        batch_size=section.batch_size,
        window=section.window,
        seed=section.seed,
        start=experiment.state.position,
        replay=_replay(experiment),
        shard=experiment.group.shard,
    )
    direction = experiment.model.direction
    return read_in_direction(direction, tokens.ids, tokens.targets, mode="records", read=read)


def _replay(experiment: Experiment) -> Replay | None:
    """Return the old text to mix into the training text, or None."""
    section = experiment.config.training
    old = experiment.old_text
    if old is None or not section.replay:
        return None
    return Replay(
        ids=old.tokens["train"].ids,
        mode=old.mode,
        fraction=section.replay,
        window=section.window,
    )
