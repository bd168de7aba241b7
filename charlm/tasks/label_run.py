"""A trained model of labels, and the labels that it gives to texts and to their tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from charlm.data.cards import Part, temporary_conversions
from charlm.data.labels import Labels, label_targets, labels_of, split_labels
from charlm.data.listing import shown_title
from charlm.data.tokenizer import EOS, EOS_TEXT, Ids, id_dtype
from charlm.data.windows.scoring import windows_to_score
from charlm.data.windows.window import PADDING
from charlm.errors import CharlmError, quote
from charlm.model.label_model import LabelHead, LabelModel, predict_labels
from charlm.model_texts import encode, require_part, training_corpus
from charlm.runs.files import CheckpointName
from charlm.runs.folder import load_run
from charlm.storage.results import Result
from charlm.storage.tables import format_rows
from charlm.trained_model import Trained, load_trained
from charlm.training.devices import choose_device


@dataclass(frozen=True)
class TrainedLabelModel(Trained[LabelModel]):
    """A trained model of labels.

    Attributes:
        labels: Labels that the model chooses from.
    """

    labels: Labels


@dataclass(frozen=True)
class PredictedLabel(Result):
    """A label with its probability.

    Attributes:
        label: The most probable label.
        probability: Its probability.
        probabilities: Probability of every label.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Predicted(Result):
    """The labels of a text.

    Attributes:
        text: The text.
        tokens: Tokens that have a label: the whole text as one, or each token.
        labels: Label of each of them.
    """

    text: str
    tokens: list[str]
    labels: list[PredictedLabel]

    def lines(self) -> Iterator[str]:
        """Yield a row for each label of the text, or for each token with its label."""
        if self.tokens == [self.text]:
            ranked = sorted(self.labels[0].probabilities.items(), key=lambda pair: -pair[1])
            yield format_rows(["label", "probability"], [[name, f"{p:.2%}"] for name, p in ranked])
        else:
            rows = [
                [quote(token), label.label, f"{label.probability:.2%}"]
                for token, label in zip(self.tokens, self.labels, strict=True)
            ]
            yield format_rows(["token", "label", "probability"], rows)


class LabelPredictions(NamedTuple):
    """Predictions in the order of the text.

    Attributes:
        log_probabilities: Log-probabilities of the labels in nats, (predictions, labels).
        targets: Number of the right label, (predictions,).
    """

    log_probabilities: npt.NDArray[np.float64]
    targets: npt.NDArray[np.int64]


def load_labels(folder: Path, which: CheckpointName, device: str) -> TrainedLabelModel:
    """Load a trained model of labels. Nothing in the run folder is executed.

    Args:
        folder: Run folder.
        which: `best` by validation loss, or `last`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        CheckpointError: The folder is no run folder, or is damaged.
        CharlmError: The model has another task.
    """
    run = load_run(folder)
    chosen = choose_device(device)
    if not isinstance(run.head, LabelHead):
        raise CharlmError(
            f"{folder}: has no labels (task {run.config.task.kind}); train a model of labels with "
            "charlm train TABLE --task classify, or --task tag"
        )
    kind = partial(TrainedLabelModel, labels=run.labels)
    make = partial(LabelModel, head=run.head)
    return load_trained(kind, run, make, folder, which, chosen)


def predict(run: TrainedLabelModel, texts: Sequence[str]) -> list[Predicted]:
    """Return the label of each text, or of each of its tokens, with probabilities.

    Raises:
        CharlmError: A text is empty, or the tokenizer reads an end of a text inside it.
    """
    rows = [run.tokenizer.encode(text).tolist() for text in texts]
    for number, (text, row) in enumerate(zip(texts, rows, strict=True), start=1):
        if not row:
            raise CharlmError(f"text {number}: the text is empty and has no label; leave it out")
        if EOS in row:
            raise CharlmError(
                f"the text {text!r:.60} has a line end or the word {EOS_TEXT}, which ends a text "
                "with tokenizer.words: whitespace; remove it, or give each part by itself"
            )
    if not rows:
        return []
    ids = np.array([index for row in rows for index in (*row, EOS)])
    ids = ids.astype(id_dtype(run.tokenizer.vocabulary_size))
    is_tag = run.config.task.kind == "tag"
    counts = [len(row) if is_tag else 1 for row in rows]
    # The targets state only where a label is predicted.
    found = [[run.labels[0]] * count for count in counts]
    targets = label_targets(ids, found, run.labels, run.config.task)
    probabilities = np.exp(predict_ids(run, ids, targets).log_probabilities)
    by_text = np.split(probabilities, np.cumsum(counts)[:-1])
    return [
        Predicted(
            text=text,
            tokens=[run.tokenizer.decode([index]) for index in row] if is_tag else [text],
            labels=[predicted_label(run.labels, of_token) for of_token in of_text.tolist()],
        )
        for text, row, of_text in zip(texts, rows, by_text, strict=True)
    ]


def predicted_label(labels: Labels, probabilities: list[float]) -> PredictedLabel:
    """Return the most probable label, from the probability of each label."""
    probability, best = max(zip(probabilities, labels, strict=True), key=lambda pair: pair[0])
    by_label = dict(zip(labels, probabilities, strict=True))
    return PredictedLabel(label=best, probability=probability, probabilities=by_label)


def predict_ids(run: TrainedLabelModel, ids: Ids, targets: Ids) -> LabelPredictions:
    """Return the predictions of encoded records.

    Args:
        run: The model.
        ids: Ids of the records, each with its closing <EOS>, (tokens,).
        targets: Targets at the positions of the ids, (tokens,); where there is none, nothing is
            predicted.
    """
    parts = list(_predictions(run, ids, targets))
    positions = np.concatenate([at for at, _ in parts])
    order = np.argsort(positions)
    return LabelPredictions(
        log_probabilities=np.concatenate([log_p for _, log_p in parts])[order],
        targets=targets[positions[order]].astype(np.int64),
    )


@torch.inference_mode()
def _predictions(
    run: TrainedLabelModel, ids: Ids, targets: Ids
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]:
    """Yield positions in the ids and the log-probabilities of the labels there."""
    windows = windows_to_score(ids, mode="records", direction=run.model.direction, targets=targets)
    for window in windows:
        device = run.device
        logits, found = predict_labels(
            run.model, window.inputs.to(device), window.targets.to(device)
        )
        positions = window.positions
        at = positions.amax(dim=0) if len(found) == positions.shape[1] else positions.flatten()
        is_target = (found != PADDING).cpu()
        log_probabilities = logits.double().log_softmax(dim=-1).cpu()
        yield at[is_target].numpy(), log_probabilities[is_target].numpy()


class LabelledPart(NamedTuple):
    """A part of a corpus, encoded with its labels.

    Attributes:
        ids: Ids of the sources, each with its closing <EOS>, (tokens,).
        labels: Labels of each record.
    """

    ids: Ids
    labels: list[list[str]]


def labelled_part(run: TrainedLabelModel, split: Part) -> LabelledPart:
    """Return a part of the corpus that a model was trained with.

    Raises:
        CheckpointError: The corpus has no such part, or has changed since the training.
    """
    with temporary_conversions():
        corpus = training_corpus(run)
        require_part(run, corpus.parts, split)
        texts, targets = split_labels(corpus)
        ids = np.asarray(encode(run, texts[split]).ids)
    found = labels_of(ids, targets[split], run.config.task, place=shown_title(corpus.title))
    return LabelledPart(ids, found)


def facts_of(run: TrainedLabelModel) -> dict[str, Any]:
    """Return the facts about a model that each of its scores depends on."""
    section = run.config
    return {
        "run": str(run.folder),
        "checkpoint": run.origin.which,
        "step": run.origin.state["step"],
        "task": section.task.kind,
        "level": section.tokenizer.level,
        "direction": run.model.direction,
        "device": str(run.device),
        "training_seed": section.training.seed,
    }
