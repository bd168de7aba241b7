"""How well a model completes sources: exact matches and edit distances."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlm.data.cards import Part
from charlm.data.pairs import completion_targets
from charlm.data.tokenizer import Ids, Tokenizer
from charlm.data.windows import record_spans, windows_to_score
from charlm.sampling.completion import complete_ids, require_completion
from charlm.sampling.options import CompletionOptions
from charlm.storage.results import Result
from charlm.trained_model import Trained, corpus_part, encode, provenance
from charlm.training.loss import score

_NUM_ERRORS = 10


@dataclass(frozen=True)
class Completed(Result):
    """A target that a model has written.

    Attributes:
        source: The source.
        target: The right target.
        written: What the model wrote.
        edit_distance: Least number of insertions, deletions and replacements of characters between
            the two.
    """

    source: str
    target: str
    written: str
    edit_distance: int


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
        errors: The first targets that are not written exactly.
        settings: Facts that the score depends on.
    """

    records: int
    exact_match: float
    edit_distance: float
    edits_per_character: float
    loss_nats: float
    accuracy: float
    errors: list[Completed]
    settings: dict[str, Any]


def measure_completion(
    trained: Trained[Any], split: Part, options: CompletionOptions
) -> Completions:
    """Complete the sources of a part of a model's corpus, and compare the results.

    Raises:
        CharlmError: The model was not trained to complete sources, or has no such part.
    """
    require_completion(trained)
    ids = np.asarray(encode(trained, corpus_part(trained, split)).ids)
    targets = completion_targets(ids, trained.tokenizer)
    scored = score(
        trained.model,
        windows_to_score(ids, mode="records", targets=targets),
        device=trained.device,
        precision=next(trained.model.parameters()).dtype,
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
        errors=[record for record in completed if record.edit_distance][:_NUM_ERRORS],
        settings=provenance(trained) | {"split": split, "beams": options.beams},
    )


def _complete_records(
    trained: Trained[Any], ids: Ids, targets: Ids, options: CompletionOptions
) -> list[Completed]:
    spans = record_spans(ids).tolist()
    pairs = [_split(ids[start:stop], targets[start:stop]) for start, stop in spans]
    written = complete_ids(trained.model, [source for source, _ in pairs], options)
    return [
        _compare(trained.tokenizer, source, target, row)
        for (source, target), row in zip(pairs, written, strict=True)
    ]


def _split(ids: Ids, targets: Ids) -> tuple[list[int], list[int]]:
    """Return the ids of the source of a record with its tab, and those of its target."""
    is_target = targets >= 0
    return ids[~is_target].tolist(), ids[is_target][:-1].tolist()


def _compare(
    tokenizer: Tokenizer, source: list[int], target: list[int], written: list[int]
) -> Completed:
    right, found = tokenizer.decode(target), tokenizer.decode(written)
    return Completed(
        source=tokenizer.decode(source[:-1]),
        target=right,
        written=found,
        edit_distance=edit_distance(right, found),
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
