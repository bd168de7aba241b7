"""How well a model completes sources: exact matches and edit distances."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from charlm.data.cards import Part
from charlm.data.pairs import completion_targets
from charlm.data.tokenizer import Ids, Tokenizer
from charlm.data.windows.directions import record_spans
from charlm.data.windows.scoring import windows_to_score
from charlm.errors import quote
from charlm.model.log_probabilities import log_probabilities_of, predict_window
from charlm.model_texts import corpus_part, encode
from charlm.sampling.completion import complete_ids, require_completion
from charlm.sampling.options import CompletionOptions
from charlm.storage.results import Result
from charlm.storage.tables import field_lines, format_settings
from charlm.trained_model import Trained, provenance
from charlm.training.loss import score

_NUM_ERRORS = 20


@dataclass(frozen=True)
class Completed(Result):
    """A target that a model has written.

    Attributes:
        source: The source.
        target: The right target.
        written: What the model wrote.
        edit_distance: Least number of insertions, deletions and replacements of characters between
            the two.
        nats: Negative log-probability of the right target with its <EOS>, in nats.
    """

    source: str
    target: str
    written: str
    edit_distance: int
    nats: float


@dataclass(frozen=True)
class Completions(Result):
    """How well a model completes the sources of a part of its corpus.

    Attributes:
        records: Number of sources.
        exact_match: Fraction of the targets that are written exactly.
        edit_distance: Mean edit distance.
        edits_per_character: Sum of the edit distances per character of the right targets.
        loss_nats: Cross-entropy in nats per token of the right targets, <EOS> included.
        accuracy: Fraction of these tokens that are the most probable ones.
        errors: Targets that are not written exactly, the one whose right target is least probable
            first, at most 20.
        examples: The first sources with what the model writes, if they were asked for.
        settings: Facts that the score depends on.
    """

    records: int
    exact_match: float
    edit_distance: float
    edits_per_character: float
    loss_nats: float
    accuracy: float
    errors: list[Completed]
    examples: list[Completed]
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield the scores, the errors and the settings."""
        yield from field_lines(self.to_json())
        for error in self.errors:
            source, target, written = map(quote, (error.source, error.target, error.written))
            yield f"{source}: {written} instead of {target}"
        yield format_settings(self.settings)


def measure_completion(
    trained: Trained[Any],
    split: Part,
    options: CompletionOptions,
    *,
    records: int | None = None,
    examples: int = 0,
) -> Completions:
    """Complete the sources of a part of a model's corpus, and compare the results.

    Args:
        trained: The model.
        split: Part of its corpus.
        options: How targets are written.
        records: Number of sources to complete, from the beginning; None means all.
        examples: Number of first sources that are kept with what the model writes.

    Raises:
        CharlmError: The model was not trained to complete sources, or has no such part.
    """
    require_completion(trained)
    whole = np.asarray(encode(trained, corpus_part(trained, split)).ids)
    ends = record_spans(whole)[:, 1]
    ids = whole[: ends[:records][-1]]
    targets = completion_targets(ids, trained.tokenizer)
    scored = score(
        trained.model,
        windows_to_score(ids, mode="records", targets=targets),
        device=trained.device,
        precision=torch.float32,
    )
    completed = _complete_records(trained, ids, targets, options)
    distances = np.array([record.edit_distance for record in completed])
    characters = sum(len(record.target) for record in completed)
    return Completions(
        records=len(completed),
        exact_match=float((distances == 0).mean()),
        edit_distance=float(distances.mean()),
        edits_per_character=float(distances.sum() / max(characters, 1)),
        loss_nats=scored.loss_nats,
        accuracy=scored.correct / max(scored.tokens, 1),
        errors=most_surprising(completed),
        examples=completed[:examples],
        settings=provenance(trained)
        | {"split": split, "records_of_split": len(ends), "beams": options.beams},
    )


def most_surprising(completed: Sequence[Completed]) -> list[Completed]:
    """Return the targets that are not written exactly, the least probable right target first."""
    wrong = [record for record in completed if record.written != record.target]
    return sorted(wrong, key=lambda record: -record.nats)[:_NUM_ERRORS]


def _complete_records(
    trained: Trained[Any], ids: Ids, targets: Ids, options: CompletionOptions
) -> list[Completed]:
    spans = record_spans(ids).tolist()
    nats = _record_nats(trained, ids, targets).tolist()
    pairs = [_split(ids[start:stop], targets[start:stop]) for start, stop in spans]
    written = complete_ids(trained.model, [source for source, _ in pairs], options)
    return [
        _compare(trained.tokenizer, source, target, row, of_record)
        for (source, target), row, of_record in zip(pairs, written, nats, strict=True)
    ]


@torch.inference_mode()
def _record_nats(trained: Trained[Any], ids: Ids, targets: Ids) -> npt.NDArray[np.float64]:
    """Return the negative log-probability of the target of each record, (records,)."""
    ends = record_spans(ids)[:, 1]
    nats = np.zeros(len(ends))
    for window in windows_to_score(ids, mode="records", targets=targets):
        inputs, window_targets = (
            tensor.to(trained.device) for tensor in (window.inputs, window.targets)
        )
        predictions, _ = predict_window(trained.model, inputs, window_targets)
        log_p = torch.cat([log_probabilities_of(*prediction) for prediction in predictions])
        sums = log_p.double().view(-1, inputs.shape[1]).sum(dim=0)
        last = window.positions.amax(dim=0).numpy()
        nats[np.searchsorted(ends, last + 1)] = -sums.cpu().numpy()
    return nats


def _split(ids: Ids, targets: Ids) -> tuple[list[int], list[int]]:
    """Return the ids of the source of a record with its tab, and those of its target."""
    is_target = targets >= 0
    return ids[~is_target].tolist(), ids[is_target][:-1].tolist()


def _compare(
    tokenizer: Tokenizer, source: list[int], target: list[int], written: list[int], nats: float
) -> Completed:
    right, found = tokenizer.decode(target), tokenizer.decode(written)
    return Completed(
        source=tokenizer.decode(source[:-1]),
        target=right,
        written=found,
        edit_distance=edit_distance(right, found),
        nats=nats,
    )


def edit_distance(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return the least number of insertions, deletions and replacements between two sequences.

    Levenshtein 1966, by dynamic programming (Wagner and Fischer 1974).

    >>> edit_distance("kitten", "sitting")
    3
    """
    if first == second:
        return 0
    row = list(range(len(second) + 1))
    for number, item in enumerate(first, start=1):
        diagonal, row[0] = row[0], number
        for column, other in enumerate(second, start=1):
            replaced = diagonal + (item != other)
            diagonal, row[column] = row[column], min(replaced, row[column] + 1, row[column - 1] + 1)
    return row[-1]
