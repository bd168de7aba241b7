"""How a text is read and split, and the facts about it from which settings are chosen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.config.corpus import Mode, Record
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.tokenizer import Level
from charlm.data.cards import Card
from charlm.data.corpus import Corpus, Text, open_corpus
from charlm.data.lines import choose_reading, measure_lines
from charlm.data.listing import title_of
from charlm.data.resolve import card_of, resolve
from charlm.data.sources import are_tables
from charlm.data.utf8 import split_lines, strip_line_end
from charlm.storage.memory_maps import BLOCK_BYTES

_CHARACTERS_PER_TOKEN = {"char": 1.0, "byte": 1.0, "word": 4.5, "bpe": 3.0}
_READING = {
    "stream": "reading one long text",
    "line": "reading one record per line",
    "document": "reading one record per document",
}
# The first megabyte may lack characters of the others.
_BYTES_READ = 16 * BLOCK_BYTES
_OTHER_MODE = {
    "stream": "if each line is a text of its own, add --set corpus.mode=records",
    "records": "if the lines belong together, add --set corpus.mode=stream",
}
# Characters from which a loss is known to a hundredth of a nat. Scoring more would only take time.
_VALIDATION_CHARACTERS = 200_000
# Documents are records if they are many and short.
_MIN_DOCUMENTS = 200
_MAX_DOCUMENT_BYTES = 2000


@dataclass(frozen=True)
class TextFacts:
    """Facts about a text from which settings are chosen.

    Attributes:
        title: Title of the text.
        characters: Approximate number of characters of the training part; in records mode without
            line ends and separators.
        mode: How the text is read.
        reading: How it is read and why, in words.
        level: Level of the tokens.
        alphabet_size: Number of different characters in the first blocks; 256 for bytes.
        num_records: Approximate number of lines or documents of the training part.
        record_tokens: Mean number of tokens of each of them, with <EOS>: at least 2.
        record_lengths: Approximate number of tokens of most of them, in ascending order.
    """

    title: str
    characters: int
    mode: Mode
    reading: str
    level: Level
    alphabet_size: int
    num_records: int
    record_tokens: int
    record_lengths: npt.NDArray[np.float64] = field(compare=False)

    @property
    def tokens(self) -> float:
        """Approximate number of tokens of the training part, with the <EOS> of each record."""
        tokens = self.characters / _CHARACTERS_PER_TOKEN[self.level]
        return max(1.0, tokens + self.num_records if self.mode == "records" else tokens)


@dataclass(frozen=True)
class Inspection:
    """What was learned from reading the beginning of a text.

    Attributes:
        text: Facts about the text.
        text_names: Resolved names of the text.
        corpus_fields: Chosen fields of the section `corpus`.
    """

    text: TextFacts
    text_names: Sequence[str]
    corpus_fields: dict[str, Any]


def inspect_text(config: Config) -> Inspection:
    """Read the beginning of the text, and choose how it is read and split."""
    card = card_of(config.corpus)
    resolved = resolve(config)
    corpus = open_corpus(resolved)
    reading = _choose_mode(config, resolved, card, corpus)
    if reading.mode != corpus.mode:
        corpus = open_corpus(_with_reading(config, resolved, reading))
    train = corpus.parts["train"]
    level = resolved.tokenizer.level
    per_byte, alphabet_size = _measure_characters(train, level)
    fields = _fields_of_reading(resolved, reading)
    growth = 1.0  # Factor by which the training part grows where less of the text is held out.
    if _is_split_open(config, card, corpus):
        whole = (train.size + corpus.parts["valid"].size) * per_byte
        most, rest = resolved.corpus.valid_share, 1 - resolved.corpus.test_share
        fraction = float(f"{min(most, _VALIDATION_CHARACTERS / max(whole, 1)):.2g}")
        fields["valid_share"] = fraction
        growth = (rest - fraction) / (rest - most)
    tokens_per_byte = per_byte / _CHARACTERS_PER_TOKEN[level]
    text = TextFacts(
        title=card.title if card else title_of(config.corpus.text),
        characters=round(growth * train.size * per_byte),
        mode=reading.mode,
        reading=reading.described,
        level=level,
        alphabet_size=alphabet_size,
        num_records=round(growth * len(train.spans)),
        record_tokens=1 + max(1, round(tokens_per_byte * train.size / len(train.spans))),
        record_lengths=1 + tokens_per_byte * np.sort(train.spans[:, 2] - train.spans[:, 1]),
    )
    return Inspection(text=text, text_names=resolved.corpus.text, corpus_fields=fields)


def text_override(inspection: Inspection) -> str:
    """Return the override with the resolved names: standard input can be read only once."""
    return f"corpus.text={json.dumps(inspection.text_names)}"


class _Characters(NamedTuple):
    """The characters in the first blocks of a text.

    Attributes:
        per_byte: Mean number of characters per byte.
        alphabet_size: Number of different characters; 256 for bytes.
    """

    per_byte: float
    alphabet_size: int


def _measure_characters(text: Text, level: Level) -> _Characters:
    """Measure the characters of a text; at level `byte` a byte is one."""
    if level == "byte":
        return _Characters(per_byte=1.0, alphabet_size=256)
    sample = b"".join(_beginning(text, _BYTES_READ))
    characters = sample.decode()
    return _Characters(len(characters) / len(sample), alphabet_size=len(set(characters)))


def _is_split_open(config: Config, card: Card | None, corpus: Corpus) -> bool:
    """Return whether the size of the validation part is still to be chosen."""
    is_set = config.corpus.valid_share is not None or config.corpus.valid_text is not None
    is_on_card = card is not None and card.valid_share is not None
    return not is_set and not is_on_card and "valid" in corpus.parts


def _beginning(text: Text, size: int) -> list[bytes]:
    """Return the first blocks of a text, of at least `size` bytes in all if it has as many."""
    blocks: list[bytes] = []
    num_bytes = 0
    for block, _ in text.blocks():
        blocks.append(block)
        num_bytes += len(block)
        if num_bytes >= size:
            break
    return blocks


class _Reading(NamedTuple):
    """How a text is best read, and why."""

    mode: Mode
    record: Record
    reason: str

    @property
    def described(self) -> str:
        """The reading and its reason in words."""
        return f"{_READING[self.record if self.mode == 'records' else self.mode]}: {self.reason}"


def _fields_of_reading(resolved: ResolvedConfig, reading: _Reading) -> dict[str, Any]:
    """Return the fields of the section `corpus` that follow from how a text is read."""
    fields: dict[str, Any] = {"mode": reading.mode}
    if reading.mode == "records":
        fields["record"] = reading.record
    if resolved.task.has_pairs:
        fields |= {name: getattr(resolved.corpus, name) for name in ("source", "target")}
    return fields


def _with_reading(config: Config, resolved: ResolvedConfig, reading: _Reading) -> ResolvedConfig:
    """Return the resolved configuration with another reading of the text."""
    # The split follows the mode unless it is set.
    changes = {"mode": reading.mode, "record": reading.record, "split": config.corpus.split}
    corpus = resolved.corpus.model_copy(update=changes)
    return resolve(resolved.model_copy(update={"corpus": corpus}))


def _choose_mode(
    config: Config, resolved: ResolvedConfig, card: Card | None, corpus: Corpus
) -> _Reading:
    """Return how a text is best read."""
    record = resolved.corpus.record
    if config.task.has_pairs:
        return _Reading("records", record, "each has a source and a target")
    if config.corpus.mode:
        return _Reading(corpus.mode, record, "corpus.mode is set")
    if card:
        return _Reading(corpus.mode, record, "the corpus card says so")
    train = corpus.parts["train"]
    if config.corpus.record == "line":
        return _read_lines(train)
    if resolved.tokenizer.words != "whitespace" and _has_short_documents(train):
        return _Reading("records", "document", "the documents are short and independent")
    has_documents = config.corpus.record or resolved.corpus.separator
    if has_documents or are_tables(resolved.corpus.text, rules=resolved.corpus.rules):
        return _Reading("stream", "document", "the documents are few or long")
    return _read_lines(train)


def _has_short_documents(text: Text) -> bool:
    """Return whether a text has many documents, and 99 % of them are short."""
    lengths = np.sort(text.spans[:, 2] - text.spans[:, 1])
    longest = lengths[len(lengths) * 99 // 100]
    return len(lengths) >= _MIN_DOCUMENTS and bool(longest <= _MAX_DOCUMENT_BYTES)


def _read_lines(text: Text) -> _Reading:
    """Return how a text is best read by its lines, with the alternative if that is uncertain."""
    # Each block is divided by itself, because a document also ends its last line.
    lines = [
        strip_line_end(line, text.line_ends)
        for block in _beginning(text, BLOCK_BYTES)
        for line in split_lines(block.decode(errors="replace"), text.line_ends)
    ]
    mode, reason, is_certain = choose_reading(measure_lines(lines))
    return _Reading(mode, "line", reason if is_certain else f"{reason}; {_OTHER_MODE[mode]}")
