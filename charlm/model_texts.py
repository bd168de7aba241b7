"""Texts that a trained model reads: a string, files, or a part of its own corpus."""

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from charlm.config.values import checked
from charlm.data.cards import Part, cache_folder, temporary_conversions
from charlm.data.corpus import Corpus, Text, read_text
from charlm.data.listing import shown_names, title_of
from charlm.data.sources import check_size
from charlm.data.spelling import Restoration, restoration_of
from charlm.data.tokens import SLICE_BYTES, Tokens, encode_in_memory, encode_text
from charlm.errors import CheckpointError, CorpusError, refuse_beside
from charlm.runs.folder import open_run_corpus
from charlm.storage.atomic import can_write
from charlm.trained_model import Trained, TrainedModel, require_language_model


class ScoredText(NamedTuple):
    """A text to score.

    Attributes:
        tokens: Token ids and counts of the text.
        name: Name of the text in results: its files, its split, or "a string".
    """

    tokens: Tokens
    name: str


class OpenText(NamedTuple):
    """A text to score, open for reading.

    Attributes:
        source: The text.
        tokens: Token ids and counts of the text.
        name: As of `ScoredText`.
    """

    source: Text
    tokens: Tokens
    name: str


@contextmanager
def open_text(
    trained: TrainedModel,
    text: str | None = None,
    paths: str | Path | Sequence[str | Path] = (),
    split: Part = "valid",
) -> Iterator[OpenText]:
    """Yield a string, else files, else a part of the model's own corpus.

    Args:
        trained: The model that is to score the text.
        text: A string, or None.
        paths: Files, folders or names of corpora, or one of them.
        split: Part of the model's own corpus, used if there are neither string nor paths.

    Raises:
        OptionError: Both a string and paths are given.
        CheckpointError: The corpus has no such part, or has changed since the training.
        CorpusError: A text cannot be read.
    """
    require_language_model(trained)
    if text is not None:
        refuse_beside("text", paths=paths)
        with open_string(trained, text) as opened:
            yield opened._replace(name="a string")
        return
    if paths:
        names = [str(paths)] if isinstance(paths, str | Path) else list(map(str, paths))
        source = read_text(names, trained.config)
        is_usual = source.raw or source.encoding == "utf-8"
        name = title_of(names) + ("" if is_usual else f" in {source.encoding}")
    else:
        source, name = corpus_part(trained, split), split
    yield OpenText(source, encode(trained, source), name)


def text_to_score(
    trained: TrainedModel,
    text: str | None = None,
    paths: str | Path | Sequence[str | Path] = (),
    split: Part = "valid",
) -> ScoredText:
    """Return the tokens of a text, and its name; arguments and exceptions as for `open_text`."""
    with open_text(trained, text, paths, split) as opened:
        return ScoredText(opened.tokens, opened.name)


@contextmanager
def open_string(
    trained: TrainedModel, text: str, *, splits_documents: bool = True, name: str = "the string"
) -> Iterator[OpenText]:
    """Yield a string, read as a UTF-8 file of the corpus.

    Args:
        trained: The model that is to read the string.
        text: The string.
        splits_documents: Whether the separator of the configuration ends a document; else it is
            text like any other.
        name: Its name, also in error messages.

    Raises:
        CorpusError: The string is too short, or is not text.
    """
    is_read_as_bytes = trained.tokenizer.section.level == "byte"
    check_size(len(text.encode() if is_read_as_bytes else text), name)
    update: dict[str, Any] = {"encoding": "utf-8"}
    if not splits_documents:
        update["separator"] = None
    corpus = trained.config.corpus.model_copy(update=update)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_bytes(text.encode())
        try:
            source = read_text([str(path)], trained.config.model_copy(update={"corpus": corpus}))
        except CorpusError as error:
            raise CorpusError(str(error).replace(str(path), name)) from None
        tokens = encode_in_memory(source, trained.tokenizer, mode=trained.mode)
        yield OpenText(source, tokens, name)


def encode_string(trained: TrainedModel, text: str) -> Tokens:
    """Return the tokens of a string, read as a UTF-8 file of the corpus."""
    with open_string(trained, text) as opened:
        return opened.tokens


def encode(trained: Trained[Any], text: Text) -> Tokens:
    """Return the tokens of a text, from the cache folder if they are there.

    If the folder cannot be written, a small text is encoded in memory.
    """
    cache = cache_folder() / "tokens"
    if text.size <= SLICE_BYTES and not can_write(cache):
        return encode_in_memory(text, trained.tokenizer, mode=trained.mode)
    return encode_text(text, trained.tokenizer, mode=trained.mode, cache=cache)


def training_corpus(trained: Trained[Any]) -> Corpus:
    """Return the corpus that a model was trained with.

    Raises:
        CheckpointError: A text is missing, or has changed since the training.
        CorpusError: A text cannot be read.
    """
    remedy = "" if trained.config.task.has_pairs else ", or name a text to score"
    try:
        with temporary_conversions():
            corpus = open_run_corpus(trained.folder, trained.config, trained.origin.corpus)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{remedy}") from None
    for part, text in corpus.parts.items():
        if text.fingerprint != trained.origin.corpus["fingerprints"].get(part):
            raise CheckpointError(
                f"{trained.folder}: the {part} text has changed since the training: "
                f"{shown_names(trained.config.corpus.text)}; restore the old text{remedy}"
            )
    return corpus


def training_texts(trained: Trained[Any]) -> dict[Part, Text]:
    """Return the parts of the corpus of `training_corpus`."""
    return training_corpus(trained).parts


@checked
def corpus_part(trained: Trained[Any], split: Part) -> Text:
    """Return a part of the corpus that a model was trained with.

    Raises:
        CheckpointError: The corpus has no such part, or has changed since the training.
    """
    parts = training_texts(trained)
    require_part(trained, parts, split)
    return parts[split]


def require_part(trained: Trained[Any], parts: Collection[Part], split: Part) -> None:
    """Raise CheckpointError if the corpus of a model, which has some parts, has no part `split`."""
    if split not in parts:
        remedy = "choose another split"
        if not trained.config.task.has_pairs:
            remedy += ", or name a text to score"
        raise CheckpointError(
            f"{trained.folder}: the corpus has no {split} part, only {', '.join(parts)}; {remedy}"
        )


def share_in_training(trained: TrainedModel, split: Part) -> float | None:
    """Return the fraction of the records of a held-out part that are in the training part too.

    It is None in stream mode, and for the training part.

    Raises:
        CheckpointError: A text is missing, or has changed since the training.
        CorpusError: A text cannot be read.
    """
    return training_corpus(trained).shares_in_training().get(split)


def original_bytes(text: Text) -> bytes:
    """Return the bytes of a text, with a separator after each document."""
    separator = text.separator.encode()
    return b"".join(block + (separator if ends else b"") for block, ends in text.blocks())


def restoration_to_score(trained: TrainedModel, text: Text, tokens: Tokens) -> Restoration:
    """Return the cost of restoring a text from its tokens."""
    unknown = tokens.counts.unknown
    return restoration_of(text, trained.tokenizer, trained.mode, unknown=unknown)
