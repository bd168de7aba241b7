"""Scores of a model of labels: accuracy, F1, confusion, cross-entropy, calibration, spans."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.data.cards import Part
from charlm.data.labels import label_targets
from charlm.storage.results import Result
from charlm.tasks.label_run import LabelRun, facts_of, labelled_part, num_records, predict_ids
from charlm.version import VERSION

_CALIBRATION_BINS = 15
_OUTSIDE = "O"


@dataclass(frozen=True)
class LabelScores(Result):
    """How well a model labels a part of its corpus.

    Attributes:
        records: Number of records.
        predictions: Number of labels: one per record, or one per token.
        accuracy: Fraction of the labels that are right.
        macro_f1: Mean over the labels, of those that are right or predicted at least once, of F1.
        loss_nats: Cross-entropy in nats per label.
        calibration_error: Expected calibration error of the most probable labels (Guo et al. 2017,
            arXiv:1706.04599, equation 3), with 15 bins of equal width.
        majority: Fraction of the labels that are the most frequent one.
        span_f1: F1 of the spans of BIO labels, each right in extent and type; None for others.
        confusion: Number of labels, by the right one and then by the predicted one.
        settings: Facts that the score depends on.
    """

    records: int
    predictions: int
    accuracy: float
    macro_f1: float
    loss_nats: float
    calibration_error: float
    majority: float
    span_f1: float | None
    confusion: dict[str, dict[str, int]]
    settings: dict[str, Any]


def measure_labels(run: LabelRun, split: Part) -> LabelScores:
    """Label a part of a model's corpus, and compare with the right labels.

    Raises:
        CheckpointError: The corpus has no such part, or has changed since the training.
    """
    part = labelled_part(run, split)
    targets = label_targets(part.ids, part.labels, run.labels, run.config.task)
    log_p, right = predict_ids(run, part.ids, targets)
    predicted = log_p.argmax(axis=1)
    counts = confusion(right, predicted, len(run.labels))
    names = [run.labels[number] for number in predicted.tolist()]
    return LabelScores(
        records=num_records(part.ids),
        predictions=len(right),
        accuracy=float((right == predicted).mean()),
        macro_f1=macro_f1(counts),
        loss_nats=float(-log_p[np.arange(len(right)), right].mean()),
        calibration_error=calibration_error(np.exp(log_p.max(axis=1)), right == predicted),
        majority=float(counts.sum(axis=1).max() / len(right)),
        span_f1=span_f1(part.labels, _by_record(names, part.labels)) if _is_bio(run) else None,
        confusion={
            label: dict(zip(run.labels, row, strict=True))
            for label, row in zip(run.labels, counts.tolist(), strict=True)
        },
        settings=facts_of(run) | {"split": split, "version": VERSION},
    )


def confusion(
    right: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], num_labels: int
) -> npt.NDArray[np.int64]:
    """Return the number of predictions, (right label, predicted label)."""
    flat = np.bincount(right * num_labels + predicted, minlength=num_labels**2)
    return flat.reshape(num_labels, num_labels)


def macro_f1(counts: npt.NDArray[np.int64]) -> float:
    """Return the mean F1 of the labels that occur, from a confusion matrix.

    F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall.
    """
    true = counts.diagonal()
    involved = counts.sum(axis=0) + counts.sum(axis=1)
    occurs = involved > 0
    return float((2 * true[occurs] / involved[occurs]).mean())


def calibration_error(
    confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]
) -> float:
    """Return the mean distance of confidence and accuracy, over bins of confidence."""
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gap = np.bincount(bins, weights=confidence - is_right, minlength=_CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(confidence))


def _is_bio(run: LabelRun) -> bool:
    is_tag = run.config.task.kind == "tag"
    return is_tag and all(label == _OUTSIDE or label[:2] in ("B-", "I-") for label in run.labels)


def _by_record(names: Sequence[str], like: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """Yield labels in records of the same lengths as others."""
    labels = iter(names)
    for record in like:
        yield [next(labels) for _ in record]


def span_f1(right: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> float:
    """Return the F1 of the spans of BIO labels, over all records."""
    pairs = [
        (set(spans(of_right)), set(spans(of_predicted)))
        for of_right, of_predicted in zip(right, predicted, strict=True)
    ]
    involved = sum(len(first) + len(second) for first, second in pairs)
    return 2 * sum(len(first & second) for first, second in pairs) / max(involved, 1)


def spans(labels: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yield start, stop and type of each span of BIO labels.

    A span begins with B-TYPE, or with I-TYPE after a label of another type, and goes on with
    I-TYPE.

    >>> list(spans(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
    [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
    """
    number = 0
    keys: list[tuple[int, str]] = []
    before = ""
    for label in labels:
        kind = label[2:] if label != _OUTSIDE else ""
        number += label.startswith("B-") or kind != before
        keys.append((number, kind))
        before = kind
    start = 0
    for (_, kind), group in groupby(keys):
        stop = start + len(list(group))
        if kind:
            yield start, stop, kind
        start = stop
