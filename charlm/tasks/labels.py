"""Scores of a model of labels: accuracy, F1, confusion, cross-entropy, calibration, spans."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.data.cards import Part
from charlm.data.labels import label_targets
from charlm.data.tokenizer import Ids
from charlm.data.windows.directions import record_spans
from charlm.errors import quote
from charlm.storage.results import Result
from charlm.storage.tables import field_lines, format_rows, format_settings
from charlm.tasks.label_run import (
    LabelledPart,
    LabelPredictions,
    PredictedLabel,
    TrainedLabelModel,
    facts_of,
    labelled_part,
    predict_ids,
    predicted_label,
)
from charlm.version import VERSION

_CALIBRATION_BINS = 15
_MAX_COLUMNS = 12  # Of a larger confusion matrix, a terminal shows the largest entries only.
_NUM_CONFUSED = 10
_NUM_ERRORS = 20
_NEAR = 30  # Tokens before and after a wrong one that are shown.
_OUTSIDE = "O"
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoreOfLabel(Result):
    """How well a model finds one label.

    Attributes:
        label: The label.
        right: Number of texts or tokens that have it.
        predicted: Number of those that it is predicted for.
        precision: Fraction of the predicted ones that have it; None without any.
        recall: Fraction of those that have it for which it is predicted; None without any.
        f1: Harmonic mean of precision and recall; None if it neither occurs nor is predicted.
    """

    label: str
    right: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class ConfidenceBin(Result):
    """Predictions whose probability is in a range.

    Attributes:
        low: Lower end of the range.
        high: Upper end.
        count: Number of predictions.
        confidence: Mean probability of the predicted labels; None without predictions.
        accuracy: Fraction of the predictions that are right; None without predictions.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class LabelError(Result):
    """A wrong label.

    Attributes:
        before: Text before the labelled token; empty if a whole text is labelled.
        text: The labelled text or token.
        after: Text after the token.
        right: The right label.
        predicted: The predicted label.
        probability: Probability of the predicted label.
        right_probability: Probability of the right label.
    """

    before: str
    text: str
    after: str
    right: str
    predicted: str
    probability: float
    right_probability: float


@dataclass(frozen=True)
class TaggedText(Result):
    """A text whose tokens a model has labelled.

    Attributes:
        tokens: Text of each token.
        right: Right label of each token.
        predicted: Prediction for each token.
    """

    tokens: list[str]
    right: list[str]
    predicted: list[PredictedLabel]


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
        by_label: Scores of each label.
        reliability: Accuracy by the probability of the predicted label, in the bins of the
            calibration error.
        errors: Wrong labels, the one whose right label is least probable first, at most 20.
        examples: The first texts of task tag with their labels, if they were asked for.
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
    by_label: list[ScoreOfLabel]
    reliability: list[ConfidenceBin]
    errors: list[LabelError]
    examples: list[TaggedText]
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield the scores, the confusion matrix or its largest entries, and the settings."""
        yield from field_lines(self.to_json())
        if len(self.confusion) <= _MAX_COLUMNS:
            rows = [[right, *map(str, row.values())] for right, row in self.confusion.items()]
            yield ""
            yield format_rows(["right \\ predicted", *self.confusion], rows)
        else:
            confused = [
                (count, right, predicted)
                for right, row in self.confusion.items()
                for predicted, count in row.items()
                if count and right != predicted
            ]
            for count, right, predicted in sorted(confused, reverse=True)[:_NUM_CONFUSED]:
                yield f"{count:>8,} times {quote(predicted)} instead of {quote(right)}"
        yield format_settings(self.settings)


def measure_labels(
    run: TrainedLabelModel, split: Part, *, records: int | None = None, examples: int = 0
) -> LabelScores:
    """Label a part of a model's corpus, and compare with the right labels.

    Args:
        run: The model.
        split: Part of its corpus.
        records: Number of records to label, from the beginning; None means all.
        examples: Number of texts of task tag that are kept with the labels of their tokens.

    Raises:
        CheckpointError: The corpus has no such part, or has changed since the training.
    """
    whole = labelled_part(run, split)
    part = _beginning(whole, records)
    targets = label_targets(part.ids, part.labels, run.labels, run.config.task)
    predictions = predict_ids(run, part.ids, targets)
    log_p, right = predictions
    predicted = log_p.argmax(axis=1)
    counts = confusion(right, predicted, len(run.labels))
    names = [run.labels[number] for number in predicted.tolist()]
    confidence, is_right = np.exp(log_p.max(axis=1)), right == predicted
    pieces = _Pieces(run, part.ids)
    return LabelScores(
        records=len(part.labels),
        predictions=len(right),
        accuracy=float(is_right.mean()),
        macro_f1=macro_f1(counts),
        loss_nats=float(-log_p[np.arange(len(right)), right].mean()),
        calibration_error=calibration_error(confidence, is_right),
        majority=float(counts.sum(axis=1).max() / len(right)),
        span_f1=span_f1(part.labels, _by_record(names, part.labels)) if _is_bio(run) else None,
        confusion={
            label: dict(zip(run.labels, row, strict=True))
            for label, row in zip(run.labels, counts.tolist(), strict=True)
        },
        by_label=scores_of_labels(run.labels, counts),
        reliability=reliability(confidence, is_right),
        errors=_worst(run, predictions, pieces),
        examples=_examples(run, predictions, pieces, part.labels[:examples]),
        settings=facts_of(run)
        | {"split": split, "records_of_split": len(whole.labels), "version": VERSION},
    )


def _beginning(part: LabelledPart, records: int | None) -> LabelledPart:
    """Return the first records of a part."""
    if records is None or records >= len(part.labels):
        return part
    end = int(record_spans(part.ids)[records - 1, 1])
    return LabelledPart(part.ids[:end], part.labels[:records])


class _Pieces:
    """The labelled texts or tokens of a part, with what stands around them."""

    def __init__(self, run: TrainedLabelModel, ids: Ids) -> None:
        """Divide encoded records into what has a label each.

        Args:
            run: The model.
            ids: Ids of the records, each with its closing <EOS>, (tokens,).
        """
        self._decode = run.tokenizer.decode
        self._ids = ids
        self._spans = record_spans(ids)
        counts = self._spans @ [-1, 1] - 1
        self.is_tag = run.config.task.kind == "tag"
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def tokens(self, record: int) -> list[str]:
        """Return the text of each token of a record."""
        start, stop = self._spans[record].tolist()
        return [self._decode([index]) for index in self._ids[start : stop - 1].tolist()]

    def around(self, number: int) -> tuple[str, str, str]:
        """Return the text before a labelled piece, the piece itself, and the text after it."""
        if not self.is_tag:
            start, stop = self._spans[number].tolist()
            return "", self._decode(self._ids[start : stop - 1].tolist()), ""
        record = int(np.searchsorted(self._starts, number, side="right")) - 1
        start, stop = self._spans[record].tolist()
        at = start + number - int(self._starts[record])
        before, after = max(start, at - _NEAR), min(stop - 1, at + 1 + _NEAR)
        parts = (self._ids[before:at], self._ids[at : at + 1], self._ids[at + 1 : after])
        first, token, last = (self._decode(ids.tolist()) for ids in parts)
        return first, token, last


def _worst(
    run: TrainedLabelModel, predictions: LabelPredictions, pieces: _Pieces
) -> list[LabelError]:
    """Return the wrong predictions whose right label is least probable."""
    log_p, right = predictions
    predicted = log_p.argmax(axis=1)
    wrong = np.flatnonzero(predicted != right)
    of_right = log_p[wrong, right[wrong]]
    errors = []
    for number in wrong[np.argsort(of_right, kind="stable")][:_NUM_ERRORS].tolist():
        before, text, after = pieces.around(number)
        errors.append(
            LabelError(
                before=before,
                text=text,
                after=after,
                right=run.labels[right[number]],
                predicted=run.labels[predicted[number]],
                probability=float(np.exp(log_p[number, predicted[number]])),
                right_probability=float(np.exp(log_p[number, right[number]])),
            )
        )
    return errors


def _examples(
    run: TrainedLabelModel,
    predictions: LabelPredictions,
    pieces: _Pieces,
    labels: Sequence[Sequence[str]],
) -> list[TaggedText]:
    """Return texts with the labels of their tokens; none for task classify."""
    if not pieces.is_tag:
        return []
    found = []
    start = 0
    for number, right in enumerate(labels):
        stop = start + len(right)
        rows = np.exp(predictions.log_probabilities[start:stop]).tolist()
        found.append(
            TaggedText(
                tokens=pieces.tokens(number),
                right=list(right),
                predicted=[predicted_label(run.labels, row) for row in rows],
            )
        )
        start = stop
    return found


def scores_of_labels(labels: Sequence[str], counts: Counts) -> list[ScoreOfLabel]:
    """Return the scores of each label, from a confusion matrix, (right label, predicted label)."""
    true, right, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return [
        ScoreOfLabel(
            label=label,
            right=int(of_right),
            predicted=int(of_predicted),
            precision=_fraction(hits, of_predicted),
            recall=_fraction(hits, of_right),
            f1=_fraction(2 * hits, of_right + of_predicted),
        )
        for label, hits, of_right, of_predicted in zip(
            labels, true.tolist(), right.tolist(), predicted.tolist(), strict=True
        )
    ]


def _fraction(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def confusion(
    right: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], num_labels: int
) -> Counts:
    """Return the number of predictions, (right label, predicted label)."""
    flat = np.bincount(right * num_labels + predicted, minlength=num_labels**2)
    return flat.reshape(num_labels, num_labels)


def macro_f1(counts: Counts) -> float:
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
    bins = reliability(confidence, is_right)
    gaps = [
        abs(found.confidence - found.accuracy) * found.count
        for found in bins
        if found.confidence is not None and found.accuracy is not None
    ]
    return sum(gaps) / len(confidence)


def reliability(
    confidence: npt.NDArray[np.float64], is_right: npt.NDArray[np.bool_]
) -> list[ConfidenceBin]:
    """Return accuracy by the probability of the predicted label, in bins of equal width."""
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=_CALIBRATION_BINS).tolist()
    sums = np.bincount(bins, weights=confidence, minlength=_CALIBRATION_BINS).tolist()
    rights = np.bincount(bins, weights=is_right, minlength=_CALIBRATION_BINS).tolist()
    return [
        ConfidenceBin(
            low=number / _CALIBRATION_BINS,
            high=(number + 1) / _CALIBRATION_BINS,
            count=count,
            confidence=total / count if count else None,
            accuracy=right / count if count else None,
        )
        for number, (count, total, right) in enumerate(zip(counts, sums, rights, strict=True))
    ]


def _is_bio(run: TrainedLabelModel) -> bool:
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
