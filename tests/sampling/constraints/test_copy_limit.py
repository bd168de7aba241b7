"""No run of more than N characters of a text is in the training text."""

import functools

import numpy as np
import pytest
import torch
from conftest import small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import EOS, UNK
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import UnsupportedOptionError
from charlm.sampling.constraints.copy_limit import (
    Backtracker,
    Backtracking,
    CopyLimit,
    text_to_index,
)

TRAINING = (
    "the cat sat on the mat. the dog ate the cat. où est l’été? là-bas, été comme hiver. " * 2
)
CHARACTERS = [b"", b"", *[character.encode() for character in sorted(set(TRAINING))]]
BYTES = [b"", b"", *[bytes([byte]) for byte in range(256)]]
WORDS = [
    b"",
    b"",
    *[piece.encode() for piece in sorted({*TRAINING.split(" "), " ", "the ", "cat s", "é"})],
    b"\xc3",
]


def copies(text: str, max_copy: int) -> list[str]:
    """Return the runs of max_copy + 1 characters that are in the training text."""
    runs = (text[start : start + max_copy + 1] for start in range(len(text) - max_copy))
    return [run for run in runs if run in TRAINING]


def is_too_long(before: bytes, added: bytes, max_copy: int) -> bool:
    """Return, by trying all windows, whether a run of max_copy + 1 characters ends in `added`."""
    text = (before + added).decode(errors="ignore")
    length_before = len(before.decode(errors="ignore"))
    return any(
        text[end - max_copy - 1 : end] in TRAINING
        for end in range(max(length_before, max_copy) + 1, len(text) + 1)
    )


@pytest.mark.parametrize("texts", [CHARACTERS, BYTES, WORDS], ids=["characters", "bytes", "words"])
@settings(max_examples=60)
@given(data=st.data(), max_copy=st.integers(1, 7))
def test_exactly_the_tokens_that_end_a_too_long_run_are_forbidden(texts, data, max_copy):
    start = data.draw(st.integers(0, len(TRAINING)))
    prompt = TRAINING[start : start + data.draw(st.integers(0, 10))] + data.draw(
        st.sampled_from(["", "é", "x", "th"])
    )
    before = prompt.encode()
    if texts is not CHARACTERS:
        before += data.draw(st.sampled_from([b"", b"\xc3"]))
    limit = CopyLimit(SuffixIndex(TRAINING.encode()), texts, max_copy, before=before)
    usable = [token for token, text in enumerate(texts) if _is_utf8_so_far(before + text)]
    expected = [token for token in usable if is_too_long(before, texts[token], max_copy)]
    assert [token for token in limit.forbidden().tolist() if token in usable] == expected


def _is_utf8_so_far(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


@settings(max_examples=40)
@given(data=st.data())
def test_a_text_token_by_token_forbids_what_the_whole_text_forbids(data):
    index = SuffixIndex(TRAINING.encode())
    tokens = data.draw(st.lists(st.integers(0, len(WORDS) - 1), max_size=12))
    limit = CopyLimit(index, WORDS, 4)
    for token in tokens:
        limit.update([token])
    whole = CopyLimit(index, WORDS, 4, before=b"".join(WORDS[token] for token in tokens))
    assert limit.forbidden().tolist() == whole.forbidden().tolist()


def test_forbidden_tokens_by_hand():
    limit = CopyLimit(SuffixIndex(b"abcabd"), [b"", b"", b"a", b"b", b"c", b"d", b"cab"], 2)
    assert limit.forbidden().tolist() == [6]  # cab is three characters, and in the text.
    limit.update([2])
    limit.update([3])
    assert limit.forbidden().tolist() == [4, 5, 6]  # ab goes on with c, d, and c of cab.
    limit.update([3])
    assert limit.forbidden().tolist() == [6]


def test_the_state_can_be_saved_and_the_remaining_probability_is_that_of_the_mask():
    limit = CopyLimit(SuffixIndex(b"abcabd"), [b"", b"", b"a", b"b", b"c", b"d"], 2)
    limit.update([2])
    saved = limit.save()
    limit.update([3])
    assert limit.mask(torch.zeros(1, 6)).tolist() == [[0, 0, 0, 0, -torch.inf, -torch.inf]]
    assert limit.remaining == pytest.approx(4 / 6)
    limit.update([None])
    assert limit.forbidden().tolist() == [4, 5]
    limit.restore(saved)
    assert limit.forbidden().tolist() == []


@functools.cache
def following(context: str) -> list[int]:
    """Return the tokens that follow, in the training text, the longest end of a context."""
    while True:
        starts = [
            start
            for start in range(len(TRAINING) - len(context))
            if TRAINING.startswith(context, start)
        ]
        if starts:
            next_characters = [TRAINING[start + len(context)] for start in starts]
            return [CHARACTERS.index(character.encode()) for character in next_characters]
        context = context[1:]


class MemorizingGenerator:
    """Writes what follows its last characters in the training text, which it has memorized."""

    def __init__(self, limit: CopyLimit, seed: int, *, context: int, doubt: float) -> None:
        self.limit, self.random = limit, np.random.default_rng(seed)
        self.context, self.doubt = context, doubt
        self.tokens = [[]]
        self.num_drawn = 0

    def step(self) -> None:
        text = b"".join(CHARACTERS[token] for token in self.tokens[0][-self.context :]).decode()
        probabilities = np.full(len(CHARACTERS), self.doubt)
        np.add.at(probabilities, following(text), 1)
        probabilities[[EOS, UNK]] = 0
        logits = self.limit.mask(torch.from_numpy(np.log(np.maximum(probabilities, 1e-300)))[None])
        token = int(self.random.choice(len(CHARACTERS), p=logits[0].softmax(dim=0).numpy()))
        self.num_drawn += 1
        self.tokens[0].append(token)
        self.limit.update([token])

    def save(self):
        return list(self.tokens[0]), self.limit.save()

    def restore(self, saved) -> None:
        self.tokens[0][:], limit = saved
        self.limit.restore(limit)


def write(
    max_copy: int, seed: int = 1, *, context: int = 4, doubt: float = 1e-3
) -> tuple[str, MemorizingGenerator]:
    limit = CopyLimit(SuffixIndex(TRAINING.encode()), CHARACTERS, max_copy)
    generator = MemorizingGenerator(limit, seed, context=context, doubt=doubt)
    ids = generate(generator, limit, length=80)
    return b"".join(CHARACTERS[token] for token in ids).decode(), generator


def generate(generator: MemorizingGenerator, limit: CopyLimit, *, length: int) -> list[int]:
    """Return the tokens of a text; those that were called final stay as they are."""
    backtracker = Backtracker(generator, limit)
    (tokens,) = generator.tokens
    final: list[int] = []
    while len(tokens) < length:
        backtracker.prepare()
        generator.step()
        backtracker.finish()
        assert tokens[: len(final)] == final
        final = tokens[: backtracker.num_final]
    return tokens


def test_a_model_that_has_memorized_its_text_copies_no_longer_run():
    for max_copy in (1, 3, 8, 20):
        for seed, context in enumerate((1, 3, 12)):
            text, _ = write(max_copy, seed, context=context)
            assert len(text) == 80
            assert not copies(text, max_copy), (max_copy, context)


def test_without_a_limit_the_model_copies_more():
    text, _ = write(10_000)
    assert copies(text, 20)


def test_a_text_backtracks_to_where_the_model_had_a_choice():
    """With a context of three letters there is a choice after "the "; a mask would split words."""
    text, generator = write(12, context=3, doubt=1e-6)
    assert generator.num_drawn > len(text)
    runs = [text[start : start + 4] for start in range(len(text) - 3)]
    assert sum(run in TRAINING for run in runs) / len(runs) > 0.8


def test_the_same_seed_writes_the_same_text():
    assert write(8, 5)[0] == write(8, 5)[0] != write(8, 6)[0]


def test_the_number_of_removed_tokens_is_bounded():
    text, generator = write(4, context=12, doubt=1e-9)
    assert generator.num_drawn <= 6 * len(text) + 200


def test_a_text_that_cannot_begin_is_one_clear_error():
    limit = CopyLimit(SuffixIndex(b"aa"), [b"", b"aa"], 1)
    generator = MemorizingGenerator(limit, 1, context=1, doubt=1)
    with pytest.raises(UnsupportedOptionError, match=r"^max_copy: after 0 tokens .*got 1$"):
        generate(generator, limit, length=5)


def test_a_text_backtracks_further_at_the_same_dead_end():
    backtracking = Backtracking()
    assert [backtracking.tokens_to_remove(40, 0.0, 40) for _ in range(4)] == [1, 2, 4, 8]
    # A dead end before the furthest one counts as the same dead end.
    assert backtracking.tokens_to_remove(39, 0.05, 39) == 16
    assert backtracking.tokens_to_remove(41, 0.0, 41) == 1
    assert backtracking.tokens_to_remove(50, 0.1, 50) == 0
    assert Backtracking().tokens_to_remove(0, 0.0, 0) == 0


def test_the_training_text_is_forbidden_after_n_characters():
    training = "the old cat\nthe été\nthe old dog\n"
    for overrides in (
        [],
        ["tokenizer.level=byte"],
        ["tokenizer.level=word"],
        ["tokenizer.level=bpe", "tokenizer.vocabulary_size=300"],
        ["tokenizer.level=word", "tokenizer.words=whitespace"],
    ):
        tokenizer = learn_tokenizer([training], small_config("x", *overrides).tokenizer)
        texts = tokenizer.token_texts()
        index = SuffixIndex(text_to_index(training.encode(), tokenizer))
        ids = tokenizer.encode(training).tolist()
        for max_copy in (3, 8):
            limit, tokens = CopyLimit(index, texts, max_copy), 0
            while tokens < len(ids) and ids[tokens] not in limit.forbidden():
                limit.update([ids[tokens]])
                tokens += 1
            assert len(tokenizer.decode(ids[:tokens])) <= max_copy, overrides
            assert len(tokenizer.decode(ids[: tokens + 1])) >= max_copy, overrides
        assert texts[UNK] == b""
