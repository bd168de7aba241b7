"""Unusual, damaged and binary texts behave as docs/corpora.md says."""

import codecs
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import small_config, train_all
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import opened

import charlm
from charlm.config.corpus import Corpus as CorpusSection
from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data import corpus as corpora
from charlm.data.tokenizer import EOS
from charlm.data.tokens import encode_text
from charlm.data.vocabulary import decode_blocks, learn_tokenizer
from charlm.errors import CorpusError

WORDS = "The cat sat on the mat. "
LEVELS = {
    "char": TokenizerSection(level="char"),
    "byte": TokenizerSection(level="byte"),
    "word": TokenizerSection(level="word"),
    "bpe": TokenizerSection(level="bpe", vocabulary_size=300),
}


def encoded(path: Path, level: str, **options: object) -> tuple[bytes, np.ndarray]:
    """Return the bytes that the tokens of a text stand for, and its ids."""
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
def test_any_bytes_are_a_corpus_at_level_byte(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "data.bin"
    path.write_bytes(data)
    decoded, ids = encoded(path, "byte")
    assert decoded == data + b"\n" and len(ids) == len(data) + 1


UNUSUAL_TEXTS = {
    "carriage returns": WORDS + "\r\n\r" + WORDS,
    "only white space": " \t\n\n " * 20,
    "one character": "aaaa",
    "right to left": "\u200f\u05e9\u05dc\u05d5\u05dd \u202e\u05e2\u05d5\u202c. \u2067\u05d0\u05d1\u2069\n",
    "terminal control sequences": "\x1b[31mred\x1b[0m\x07\x9b2J\x7f\x08\n",
    "empty lines": "\n" * 5000,
    "other line separators": "a\u2028b\u2029c\x0bd\x0ce\x85f\n",
    "many combining marks": "e" + "\u0301" * 500 + " ",
    "a byte order mark inside": "a\ufeffb\n",
    "code points above 0xffff": "\U0001f600\U0010ffff\ufffd\uffff",
    "names of tokens": "<EOS> <UNK> </s>\n",
}


@pytest.mark.parametrize("level", LEVELS)
def test_unusual_unicode_is_encoded_without_loss(level, tmp_path):
    path = tmp_path / "text.txt"
    for name, text in UNUSUAL_TEXTS.items():
        path.write_text(text, encoding="utf-8", newline="")
        assert encoded(path, level)[0].decode() == text + "\n", name  # <EOS> is the last token.


def test_a_byte_order_mark_is_removed_except_at_level_byte(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"ab")
    assert encoded(path, "char")[0] == b"ab\n"
    assert encoded(path, "byte")[0] == codecs.BOM_UTF8 + b"ab\n"


def test_a_record_is_a_line_without_its_line_end(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("ab\r\n\r\n\n  \nc\rd\u2028e\x85f\x0cg\x1ch\r\n".encode())
    assert encoded(path, "char", mode="records")[0].decode() == "ab\n  \nc\nd\ne\nf\ng\x1ch\n"
    earlier = encoded(path, "char", mode="records", rules=1)[0].decode()
    assert earlier == "ab\n  \nc\rd\u2028e\x85f\x0cg\x1ch\n"


def test_lines_end_with_eos_at_any_line_end(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"a b\rc d\r\ne f\ng")
    for options in ({"eos": "line"}, {"level": "word", "words": "whitespace"}):
        section = TokenizerSection(**options)
        for rules, num_lines in ((2, 4), (1, 3)):
            text = opened(CorpusSection(text=(str(path),), valid_share=0.0, rules=rules))
            tokenizer = learn_tokenizer(decode_blocks(text.parts["train"].blocks()), section)
            ids = encode_text(
                text.parts["train"], tokenizer, mode="stream", cache=tmp_path / "cache"
            ).ids
            assert np.count_nonzero(ids == EOS) == num_lines, (options, rules)


INVALID_TEXTS = {
    "latin-1": (
        b"caf\xe9 " * 9,
        {},
        "byte 3 .0xe9. is not utf-8; it looks like cp1252: pass --set corpus.encoding=cp1252",
    ),
    "utf-16": (WORDS.encode("utf-16"), {}, "corpus.encoding=utf-16, .*level=byte"),
    "utf-16 of the other order": (
        codecs.BOM_UTF16_BE + WORDS.encode("utf-16-be"),
        {},
        "corpus.encoding=utf-16, ",
    ),
    "utf-32": (WORDS.encode("utf-32"), {}, "corpus.encoding=utf-32, "),
    "utf-16 without a mark": (
        WORDS.encode("utf-16-le"),
        {},
        "NUL .*looks like utf-16-le.*level=byte",
    ),
    "utf-16 without a mark, as utf-16": (
        WORDS.encode("utf-16-le"),
        {"encoding": "utf-16"},
        "BOM|NUL|decoded",
    ),
    "a lone surrogate": (b"ab\xed\xa0\x80", {}, "byte 2 .0xed. is not utf-8"),
    "a lone surrogate in utf-7": (
        b"ab+2AA-",
        {"encoding": "utf-7"},
        "cannot be decoded|is not utf-?7",
    ),
    "a truncated character": (WORDS.encode() + b"\xc3", {}, "byte 24 .0xc3. is not utf-8"),
    "an overlong encoding": (b"ab\xc0\x80", {}, "byte 2 .0xc0. is not utf-8"),
    "a NUL": (b"ab\0cd", {}, "NUL character.*level=byte"),
    "an empty file": (b"", {}, "is empty"),
    "only a byte order mark": (codecs.BOM_UTF8, {}, "is empty"),
    "one character": ("é".encode(), {}, "single character"),
    "only empty lines as records": (
        b"\r\n" * 50 + b"\n" * 50,
        {"mode": "records"},
        "nothing but empty lines",
    ),
    **{
        f"encoding {name!r}": (b"abc", {"encoding": name}, "Python has no encoding")
        for name in ("zlib", "rot13", "hex", "undefined", "utf\0", "", "no-such")
    },
}


def test_an_invalid_text_is_an_error_of_one_line_with_a_remedy(tmp_path):
    path = tmp_path / "text.txt"
    for name, (data, options, message) in INVALID_TEXTS.items():
        path.write_bytes(data)
        try:
            encoded(path, "char", **options)
        except CorpusError as error:
            assert re.search(message, str(error)), name
            assert "\n" not in str(error), name
        else:
            raise AssertionError(f"accepted: {name}")


def test_a_long_line_is_read_in_blocks_of_limited_size(tmp_path, monkeypatch):
    size, reach = 1000, 100
    monkeypatch.setattr(corpora, "BLOCK_BYTES", reach)  # How far a line end is searched for.
    path = tmp_path / "text.txt"
    for letter in ("a", "ß", "日", "\U0001f600"):
        line = (f"{letter}{letter} " * 4_000).encode()
        path.write_bytes(line)
        text = opened(CorpusSection(text=(str(path),), valid_share=0.0)).parts["train"]
        blocks = [block for block, _ in text.blocks(size)]
        assert b"".join(blocks) == line, letter
        assert max(map(len, blocks)) <= size + reach, letter
        assert all(block.decode() for block in blocks), letter


def test_an_alphabet_of_a_hundred_thousand_characters_is_learned_or_limited(tmp_path):
    letters = [chr(code) for code in range(0x20, 0x20 + 102_100) if not 0xD800 <= code <= 0xDFFF][
        :100_000
    ]
    text = "".join(letters) + "".join(letters[:500])
    unlimited = learn_tokenizer([text], TokenizerSection(level="char"))
    assert unlimited.vocabulary_size == 100_002
    assert unlimited.decode(unlimited.encode(text)) == text
    limited = learn_tokenizer([text], TokenizerSection(level="char", vocabulary_size=502))
    assert limited.decode(limited.encode(text)) == text[:500] + "<UNK>" * 99_500 + text[:500]


def test_unusual_texts_are_trained_on_sampled_and_scored(tmp_path):
    for name, mode in (
        ("carriage returns", "stream"),
        ("carriage returns", "records"),
        ("right to left", "stream"),
        ("terminal control sequences", "stream"),
        ("only white space", "records"),
    ):
        path, run_folder = tmp_path / f"{name}.txt", tmp_path / f"{name} {mode}"
        path.write_text((UNUSUAL_TEXTS[name] + ".\n") * 40, encoding="utf-8", newline="")
        options = ("training.steps=2", "corpus.copies=apart", f"corpus.mode={mode}")
        train_all(small_config(path, *options), run_folder)
        run = charlm.load(run_folder)
        (sample,) = run.sample(length=30)
        assert set(sample.text) <= set(UNUSUAL_TEXTS[name] + ".\n"), (name, mode)
        score = run.perplexity(paths=[path])
        assert score.loss_nats > 0 and score.unknown_share == 0, (name, mode)
        assert score.bytes <= path.stat().st_size, (name, mode)
