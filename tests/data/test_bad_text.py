"""What becomes of a text that is odd, broken or no text at all: docs/corpora.md says it, these hold it to that."""

import codecs
from pathlib import Path

import numpy as np
import pytest
from conftest import small_config, train_all
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import opened

import charlm
from charlm.config.schema import Corpus as CorpusSection
from charlm.config.schema import Tokenizer as TokenizerSection
from charlm.data import corpus as corpora
from charlm.data.tokenizer import EOS, decode_blocks, learn_tokenizer
from charlm.data.tokens import encode_text
from charlm.errors import CorpusError

WORDS = "The cat sat on the mat. "
LEVELS = {
    "char": TokenizerSection(level="char"),
    "byte": TokenizerSection(level="byte"),
    "word": TokenizerSection(level="word"),
    "bpe": TokenizerSection(level="bpe", vocabulary_size=300),
}


def encoded(path: Path, level: str, **options: object) -> tuple[bytes, np.ndarray]:
    """Return what the tokens of a whole text stand for, and its ids."""
    section = CorpusSection(text=(str(path),), valid_share=0.0, **options)
    corpus = opened(section, raw=level == "byte")
    text = corpus.parts["train"]
    tokenizer = learn_tokenizer(
        decode_blocks(text.blocks()) if level != "byte" else [], LEVELS[level]
    )
    ids = encode_text(text, tokenizer, mode=corpus.mode, cache=path.parent / "cache").ids
    return b"".join(tokenizer.token_bytes[index] if index != EOS else b"\n" for index in ids), ids


@settings(max_examples=40)
@given(data=st.binary(min_size=2, max_size=300))
def test_any_bytes_are_a_corpus_at_byte_level(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "data.bin"
    path.write_bytes(data)
    found, ids = encoded(path, "byte")
    assert found == data + b"\n" and len(ids) == len(data) + 1


KEPT = {
    "carriage returns": WORDS + "\r\n\r" + WORDS,
    "blanks alone": " \t\n\n " * 20,
    "one character": "aaaa",
    "right to left": "\u200f\u05e9\u05dc\u05d5\u05dd \u202e\u05e2\u05d5\u202c. \u2067\u05d0\u05d1\u2069\n",
    "orders to a terminal": "\x1b[31mred\x1b[0m\x07\x9b2J\x7f\x08\n",
    "empty lines": "\n" * 5000,
    "other separators": "a\u2028b\u2029c\x0bd\x0ce\x85f\n",
    "marks upon marks": "e" + "\u0301" * 500 + " ",
    "a mark in the midst": "a\ufeffb\n",
    "beyond the plane": "\U0001f600\U0010ffff\ufffd\uffff",
    "names of tokens": "<EOS> <UNK> </s>\n",
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", KEPT)
def test_what_is_unicode_is_kept_to_the_letter(name, level, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(KEPT[name], encoding="utf-8", newline="")
    assert encoded(path, level)[0].decode() == KEPT[name] + "\n"  # The last is <EOS>.


def test_a_byte_order_mark_is_left_out_of_a_text_and_kept_of_bytes(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"ab")
    assert encoded(path, "char")[0] == b"ab\n"
    assert encoded(path, "byte")[0] == codecs.BOM_UTF8 + b"ab\n"


def test_a_record_ends_at_a_line_feed_and_is_without_the_carriage_return_before_it(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("ab\r\n\r\n\n  \nc\rd\u2028e\r\n".encode())
    assert encoded(path, "char", mode="records")[0].decode() == "ab\n  \nc\rd\u2028e\n"


REFUSED = {
    "latin-1": (
        b"caf\xe9 " * 9,
        {},
        "byte 3 .0xe9. is not utf-8; pass --set corpus.encoding=latin-1",
    ),
    "utf-16": (WORDS.encode("utf-16"), {}, "corpus.encoding=utf-16 .*level=byte"),
    "utf-16 of the other order": (
        codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"),
        {},
        "corpus.encoding=utf-16 ",
    ),
    "utf-32": (WORDS.encode("utf-32"), {}, "corpus.encoding=utf-32 "),
    "utf-16 without a mark": (WORDS.encode("utf-16-le"), {}, "NUL .*utf-16-le.*level=byte"),
    "utf-16 without a mark, as utf-16": (
        WORDS.encode("utf-16-le"),
        {"encoding": "utf-16"},
        "BOM|NUL|decoded",
    ),
    "half of a surrogate pair": (b"ab\xed\xa0\x80", {}, "byte 2 .0xed. is not utf-8"),
    "half of a pair in utf-7": (
        b"ab+2AA-",
        {"encoding": "utf-7"},
        "cannot be decoded|is not utf-?7",
    ),
    "cut inside a character": (WORDS.encode() + b"\xc3", {}, "byte 24 .0xc3. is not utf-8"),
    "overlong": (b"ab\xc0\x80", {}, "byte 2 .0xc0. is not utf-8"),
    "a NUL": (b"ab\0cd", {}, "NUL character.*level=byte"),
    "nothing": (b"", {}, "is empty"),
    "a mark alone": (codecs.BOM_UTF8, {}, "is empty"),
    "a character": ("é".encode(), {}, "single character"),
    "empty lines as records": (
        b"\r\n" * 50 + b"\n" * 50,
        {"mode": "records"},
        "nothing but empty lines",
    ),
    **{
        f"encoding {name!r}": (b"abc", {"encoding": name}, "Python has no encoding")
        for name in ("zlib", "rot13", "hex", "undefined", "utf\0", "", "no-such")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_text_is_refused_in_one_line_that_says_what_to_do(name, tmp_path):
    data, options, message = REFUSED[name]
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=message) as caught:
        encoded(path, "char", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("letter", ["a", "ß", "日", "\U0001f600"])
def test_a_line_of_any_length_is_read_in_blocks_that_are_not_longer(letter, tmp_path, monkeypatch):
    size, reach = 1000, 100
    monkeypatch.setattr(corpora, "BLOCK_BYTES", reach)  # How far a line's end is looked for.
    path = tmp_path / "text.txt"
    line = (f"{letter}{letter} " * 40_000).encode()
    path.write_bytes(line)
    text = opened(CorpusSection(text=(str(path),), valid_share=0.0)).parts["train"]
    blocks = [block for block, _ in text.blocks(size)]
    assert b"".join(blocks) == line
    assert max(map(len, blocks)) <= size + reach
    assert all(block.decode() for block in blocks)


def test_an_alphabet_of_a_hundred_thousand_characters_is_learnt_or_cut_to_what_is_asked(tmp_path):
    letters = [chr(code) for code in range(0x20, 0x20 + 102_100) if not 0xD800 <= code <= 0xDFFF][
        :100_000
    ]
    text = "".join(letters) + "".join(letters[:500])
    whole = learn_tokenizer([text], TokenizerSection(level="char"))
    assert whole.vocabulary_size == 100_002
    assert whole.decode(whole.encode(text)) == text
    some = learn_tokenizer([text], TokenizerSection(level="char", vocabulary_size=502))
    assert some.decode(some.encode(text)) == text[:500] + "<UNK>" * 99_500 + text[:500]


@pytest.mark.parametrize(
    "name", ["carriage returns", "right to left", "orders to a terminal", "blanks alone"]
)
@pytest.mark.parametrize("mode", ["stream", "records"])
def test_odd_texts_are_trained_on_written_and_scored(name, mode, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text((KEPT[name] + ".\n") * 40, encoding="utf-8", newline="")
    train_all(small_config(path, "training.steps=2", f"corpus.mode={mode}"), tmp_path / "run")
    run = charlm.load(tmp_path / "run")
    (sample,) = run.sample(length=30)
    assert set(sample.text) <= set(KEPT[name] + ".\n")
    score = run.perplexity(paths=[path])
    assert score.loss_nats > 0 and score.unknown_share == 0
    assert score.bytes <= path.stat().st_size
