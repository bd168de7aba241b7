"""The corpus of a run as token ids, with the targets of its task."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from charlm.config.schema import ResolvedConfig
from charlm.config.task import Task as TaskSection
from charlm.data.cards import Part, cache_folder
from charlm.data.corpus import Corpus, Text, open_corpus
from charlm.data.labels import (
    LabelledTexts,
    Labels,
    label_targets,
    labels_of,
    learn_labels,
    split_labels,
)
from charlm.data.listing import shown_title
from charlm.data.pairs import add_targets
from charlm.data.tokenizer import Tokenizer
from charlm.data.tokens import Report, Tokens, encode_text, learn_or_load_tokenizer
from charlm.runs.folder import RunFiles
from charlm.runs.warm_start import Ancestor


@dataclass(frozen=True)
class EncodedCorpus:
    """A corpus, its tokenizer, and its token ids.

    Attributes:
        corpus: Text by parts.
        tokenizer: Tokenizer, learned from the training part.
        tokens: Token ids by parts.
        labels: Labels of the training part, sorted; empty for a task without labels.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: dict[Part, Tokens]
    labels: Labels = ()


def encode(
    config: ResolvedConfig,
    *,
    ancestor: Ancestor | None = None,
    workers: int = 1,
    report: Report | None = None,
) -> EncodedCorpus:
    """Read and encode a corpus, and keep the result in the cache for later runs.

    Args:
        config: Configuration, of which the corpus, the tokenizer and the task are used.
        ancestor: Run whose tokenizer is extended; None to learn one.
        workers: Number of processes that encode a large text.
        report: Function that receives the number of bytes encoded since its last call.

    Raises:
        CharlmError: The corpus cannot be used, or the cache cannot be written.
    """

    def make_tokenizer(train: Text) -> Tokenizer:
        if ancestor is not None:
            return ancestor.tokenizer_for(train)
        return learn_or_load_tokenizer(train, config.tokenizer, cache=cache_folder() / "tokens")

    return _encode(open_corpus(config), config.task, make_tokenizer, workers=workers, report=report)


def encode_again(corpus: Corpus, run: RunFiles, *, workers: int = 1) -> EncodedCorpus:
    """Encode the corpus of an existing run, with the run's tokenizer and labels.

    Args:
        corpus: Text that the run was trained on.
        run: Files of the run.
        workers: Number of processes that encode a large text, if it is not in the cache any more.

    Raises:
        CharlmError: The corpus cannot be used, or the cache cannot be written.
    """
    return _encode(
        corpus, run.config.task, lambda train: run.tokenizer, labels=run.labels, workers=workers
    )


def _encode(
    corpus: Corpus,
    task: TaskSection,
    make_tokenizer: Callable[[Text], Tokenizer],
    *,
    labels: Labels = (),
    workers: int,
    report: Report | None = None,
) -> EncodedCorpus:
    """Return an encoded corpus with the targets of a task; labels are learned if there are none."""
    split = split_labels(corpus) if task.has_labels else None
    texts = corpus.parts if split is None else split.texts
    tokenizer = make_tokenizer(texts["train"])
    encode_part = partial(
        encode_text,
        tokenizer=tokenizer,
        mode=corpus.mode,
        cache=cache_folder() / "tokens",
        workers=workers,
        report=report,
    )
    tokens = {part: encode_part(text) for part, text in texts.items()}
    encoded = EncodedCorpus(corpus=corpus, tokenizer=tokenizer, tokens=tokens, labels=labels)
    if split is not None:
        return _with_labels(encoded, task, split)
    with_targets = partial(add_targets, tokenizer=tokenizer, task=task)
    return replace(encoded, tokens={part: with_targets(ids) for part, ids in tokens.items()})


def _with_labels(encoded: EncodedCorpus, task: TaskSection, split: LabelledTexts) -> EncodedCorpus:
    """Return an encoded corpus with the labels of its sources as targets."""
    tokens, place = encoded.tokens, shown_title(encoded.corpus.title)
    found = {
        part: labels_of(tokens[part].ids, targets, task, place=place)
        for part, targets in split.targets.items()
    }
    labels = encoded.labels or learn_labels(found, task)
    labelled = {
        part: replace(tokens[part], targets=label_targets(tokens[part].ids, rows, labels, task))
        for part, rows in found.items()
    }
    return replace(encoded, tokens=labelled, labels=labels)
