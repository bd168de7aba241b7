"""Everything a training run needs, and the events that it yields."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from charlm.config.schema import ResolvedConfig
from charlm.data.cards import Part
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import Ids, Tokenizer
from charlm.data.tokens import Tokens
from charlm.data.windows import (
    Window,
    read_in_direction,
    record_windows,
    stream_windows,
)
from charlm.model.language_model import LanguageModel
from charlm.runs.checkpoint import save_checkpoint, state_facts, training_tensors, weights_of
from charlm.storage.locks import ProcessLock
from charlm.training.averaging import Average
from charlm.training.loop import Progress, TrainingState
from charlm.training.loss import Score
from charlm.training.process_group import SINGLE_PROCESS, Group


@dataclass(frozen=True)
class Experiment:
    """Everything that a training needs, made or loaded.

    Attributes:
        folder: The run folder.
        config: Resolved: nothing in it is left open.
        corpus: The text by parts.
        tokenizer: Learnt from its training part.
        tokens: Its parts, encoded.
        model: On `device`.
        optimizer: Of the model's parameters.
        average: Of the model's weights over its steps; where there is one, it is what is scored and kept as the best.
        state: Where the training stands; advanced by it.
        device: Where to compute.
        precision: What matrix products are computed in.
        lock: Of the run folder: held from the beginning until the training that `run` does is over, by the group's
            first process.
        group: The processes that train together, this one among them.
        vectors_share: Share of the vocabulary that a file of vectors had; None where there is none, or it is not known.
    """

    folder: Path
    config: ResolvedConfig
    corpus: Corpus
    tokenizer: Tokenizer
    tokens: dict[Part, Tokens]
    model: LanguageModel
    optimizer: torch.optim.Optimizer
    average: Average
    state: TrainingState
    device: torch.device
    precision: torch.dtype
    lock: ProcessLock
    group: Group = SINGLE_PROCESS
    vectors_share: float | None = None


@dataclass(frozen=True)
class Prepared:
    """Training is about to begin."""

    experiment: Experiment


@dataclass(frozen=True)
class Evaluated:
    """The model was scored on the validation split. It is saved as soon as saving does not take more than its share.

    Attributes:
        experiment: With the model as it was scored until training goes on: with averaged weights, where they are.
        score: On the validation split; None if there is none.
        metrics: The line that was added to metrics.jsonl.
        is_best: Whether it is the best so far, and kept as such.
    """

    experiment: Experiment
    score: Score | None
    metrics: dict[str, Any]
    is_best: bool


@dataclass(frozen=True)
class Halved:
    """Training diverged; it goes on from the last good evaluation, or the beginning, with half the rate.

    Attributes:
        experiment: As it was there.
        why: What the error would have said.
        metrics: The line that was added to metrics.jsonl.
    """

    experiment: Experiment
    why: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """Training is over and saved.

    Attributes:
        experiment: With the model as it was left.
        reason: `budget` (spent), `patience` (no new best) or `stopped` (asked to).
    """

    experiment: Experiment
    reason: str


Event = Prepared | Progress | Evaluated | Halved | Finished


@dataclass(frozen=True)
class Encoded:
    """A corpus, the tokenizer learnt from its training part, and the ids of its parts."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: dict[Part, Tokens]


def training_windows(experiment: Experiment) -> Iterator[Window]:
    """Return the training text's windows from where the training stands, without end."""
    section, ids = experiment.config.training, experiment.tokens["train"].ids
    size, window, start = section.batch_size, section.window, experiment.state.position
    shard = experiment.group.shard

    def read(ids: Ids) -> Iterator[Window]:
        if experiment.corpus.mode == "records":
            return record_windows(
                ids, batch_size=size, window=window, seed=section.seed, start=start, shard=shard
            )
        return stream_windows(
            ids,
            batch_size=size,
            window=window,
            start=start,
            seed=section.seed,
            vary=section.vary_window,
            shuffle=section.partial_shuffle,
            shard=shard,
        )

    return read_in_direction(
        experiment.model.direction, ids, mode=experiment.corpus.mode, read=read
    )


def save(experiment: Experiment, which: Literal["last", "good"]) -> None:
    """Write a checkpoint of all that training goes on from; several processes call it together, the first writes."""
    model, average, state, group = (
        experiment.model,
        experiment.average,
        experiment.state,
        experiment.group,
    )
    training = training_tensors(
        model, experiment.optimizer, average, state, experiment.device, group
    )
    if group.is_first:
        save_checkpoint(
            experiment.folder / which,
            state_facts(state, average),
            {"weights": weights_of(model) | average.weights, "training": training},
        )
