"""Labels of texts (`classify`) and of their tokens (`tag`): learned from pairs, and as targets."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.config.task import Task as TaskSection
from charlm.data.cards import Part
from charlm.data.corpus import Corpus, Text
from charlm.data.pairs import NO_SOURCE, NO_TAB, NO_TARGET, SEPARATOR, pair_error
from charlm.data.tokenizer import EOS_TEXT, Ids
from charlm.data.windows.directions import record_spans
from charlm.data.windows.window import PADDING
from charlm.errors import CorpusError, counted

Labels = tuple[str, ...]
_SHOWN = 60  # Characters of a text or a label in a message.


class LabelledTexts(NamedTuple):
    """The parts of a corpus of pairs whose targets are labels.

    Attributes:
        texts: The sources, which are encoded.
        targets: Target of each source.
    """

    texts: dict[Part, Text]
    targets: dict[Part, list[str]]


def split_labels(corpus: Corpus) -> LabelledTexts:
    """Divide the pairs of a corpus into sources and targets.

    Raises:
        CorpusError: A record has no tab, no source or no target.
    """
    split = {part: _split_pairs(text) for part, text in corpus.parts.items()}
    return LabelledTexts(
        texts={part: text for part, (text, _) in split.items()},
        targets={part: targets for part, (_, targets) in split.items()},
    )


def _split_pairs(text: Text) -> tuple[Text, list[str]]:
    lengths: list[int] = []
    targets: list[str] = []
    for record in text.documents():
        source, tab, target = record.partition(SEPARATOR.encode())
        if not source.strip() or not target.strip():
            problem = (NO_SOURCE if target.strip() else NO_TARGET) if tab else NO_TAB
            raise pair_error(record.decode(errors="replace"), problem)
        lengths.append(len(source))
        targets.append(target.decode(errors="replace"))
    spans = text.spans.copy()
    spans[:, 2] = spans[:, 1] + lengths
    return replace(text, spans=spans), targets


def labels_of(
    ids: Ids, targets: Sequence[str], task: TaskSection, *, place: str
) -> list[list[str]]:
    """Return the labels of each record: one of a text, or one of each of its tokens.

    Args:
        ids: Ids of the sources, each with its closing <EOS>, (tokens,).
        targets: Target of each source.
        task: Kind of the task.
        place: Name of the text, for messages.

    Raises:
        CorpusError: A target has another number of labels than its source has tokens, or a source
            has the word for <EOS> inside.
    """
    spans = record_spans(ids)
    if len(spans) != len(targets):
        raise CorpusError(
            f"{place}: a source has the word {EOS_TEXT}, which ends a text with "
            "tokenizer.words: whitespace; remove it"
        )
    if task.kind == "classify":
        return [[" ".join(target.split())] for target in targets]
    counts = (spans @ [-1, 1] - 1).tolist()
    found = []
    for target, count in zip(targets, counts, strict=True):
        tags = tags_of(target, count)
        if tags is None:
            raise CorpusError(
                f"{place}: a source has {counted(count, 'token')}, but its target "
                f"{target!r:.{_SHOWN}} has another number of labels; give one label for each "
                "token, separated by spaces or as single characters; if the labels are of words, "
                "set tokenizer.level=word and tokenizer.words=whitespace"
            )
        found.append(tags)
    return found


def tags_of(target: str, count: int) -> list[str] | None:
    """Return one label for each of `count` tokens; None if their numbers differ.

    Labels are separated by spaces, or each is a character.

    >>> tags_of("DET NOUN", 2), tags_of("ab_c", 4), tags_of("ab", 3)
    (['DET', 'NOUN'], ['a', 'b', '_', 'c'], None)
    """
    words = target.split()
    if len(words) == count:
        return words
    return list(target) if len(target) == count else None


def learn_labels(found: Mapping[Part, Iterable[Sequence[str]]], task: TaskSection) -> Labels:
    """Return the labels of the training part, sorted.

    Args:
        found: Labels of each record, by parts.
        task: Kind of the task.

    Raises:
        CorpusError: There is a single label, a label of texts has a single example, or a held-out
            label is not in the training part.
    """
    counts = {part: Counter(chain.from_iterable(rows)) for part, rows in found.items()}
    total = sum(counts.values(), Counter[str]())
    if len(total) < 2:
        raise CorpusError(
            f"every label is {next(iter(total))!r:.{_SHOWN}}, and at least two are needed; check "
            "corpus.target, the field of the labels"
        )
    rare = [label for label, count in total.items() if count == 1]
    if rare and task.kind == "classify":
        raise CorpusError(
            f"{len(rare):,} of {len(total):,} labels have a single example, such as "
            f"{rare[0]!r:.{_SHOWN}}, which cannot be both learned and tested; check corpus.target, "
            "the field of the labels, or leave these records out with corpus.where"
        )
    for part, held_out in counts.items():
        if unknown := sorted(held_out.keys() - counts["train"].keys()):
            raise CorpusError(
                f"the label {unknown[0]!r:.{_SHOWN}} is in the {part} part, but not in the "
                "training part; give more examples of it, or set another corpus.split_seed"
            )
    return tuple(sorted(counts["train"]))


def label_targets(
    ids: Ids, found: Sequence[Sequence[str]], labels: Labels, task: TaskSection
) -> npt.NDArray[np.int32]:
    """Return the number of the label that is predicted at the position of each id, (tokens,).

    The input at a position is the id before it, <EOS> at the first position of a record. So the
    label of a text stands at its last position, and that of a token one position after its id.
    """
    number_of = {label: number for number, label in enumerate(labels)}
    spans = record_spans(ids)
    targets = np.full(len(ids), PADDING, dtype=np.int32)
    if task.kind == "classify":
        targets[spans[:, 1] - 1] = [number_of[label] for (label,) in found]
        return targets
    has_label = np.ones(len(ids), dtype=bool)
    has_label[spans[:, 0]] = False
    targets[has_label] = [number_of[label] for row in found for label in row]
    return targets
