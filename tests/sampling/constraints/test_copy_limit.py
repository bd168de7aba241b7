"""No run of characters longer than asked for is in the training text, whatever the model would rather write."""

import copy
import functools

import numpy as np
import pytest
import torch
from conftest import small_config
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import EOS, UNK, learn_tokenizer
from charlm.errors import CharlmError
from charlm.sampling.constraints.copy_limit import (
    CopyLimit,
    Retreats,
    text_to_index,
    without_long_copies,
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


def copies(text: str, most: int) -> list[str]:
    """Return the runs of most + 1 characters that are in the training text."""
    runs = (text[at : at + most + 1] for at in range(len(text) - most))
    return [run for run in runs if run in TRAINING]


def too_long(before: bytes, added: bytes, most: int, training: bytes) -> bool:
    """Say by trying every window whether a run of most + 1 whole characters ends in what is added."""
    whole = (before + added).decode(errors="ignore")
    old = len(before.decode(errors="ignore"))
    return any(
        whole[last - most - 1 : last].encode() in training
        for last in range(max(old, most) + 1, len(whole) + 1)
    )


@pytest.mark.parametrize("texts", [CHARACTERS, BYTES, WORDS], ids=["characters", "bytes", "words"])
@settings(max_examples=60)
@given(data=st.data(), most=st.integers(1, 7))
def test_forbidden_is_what_trying_every_token_forbids(texts, data, most):
    start = data.draw(st.integers(0, len(TRAINING)))
    prompt = TRAINING[start : start + data.draw(st.integers(0, 10))] + data.draw(
        st.sampled_from(["", "é", "x", "th"])
    )
    before = prompt.encode()
    if texts is not CHARACTERS:
        before += data.draw(st.sampled_from([b"", b"\xc3"]))
    limit = CopyLimit(SuffixIndex(TRAINING.encode()), texts, most, before=before)
    usable = [token for token, text in enumerate(texts) if _is_utf8_so_far(before + text)]
    expected = [
        token for token in usable if too_long(before, texts[token], most, TRAINING.encode())
    ]
    assert [token for token in limit.forbidden().tolist() if token in usable] == expected


def _is_utf8_so_far(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


@settings(max_examples=40)
@given(data=st.data())
def test_token_by_token_it_forbids_what_it_forbids_from_the_whole_text(data):
    index = SuffixIndex(TRAINING.encode())
    tokens = data.draw(st.lists(st.integers(0, len(WORDS) - 1), max_size=12))
    limit = CopyLimit(index, WORDS, 4)
    for token in tokens:
        limit.advance([token])
    whole = CopyLimit(index, WORDS, 4, before=b"".join(WORDS[token] for token in tokens))
    assert limit.forbidden().tolist() == whole.forbidden().tolist()


def test_by_hand():
    limit = CopyLimit(SuffixIndex(b"abcabd"), [b"", b"", b"a", b"b", b"c", b"d", b"cab"], 2)
    assert limit.forbidden().tolist() == [6]  # cab is three characters, and in the text.
    limit.advance([2])
    limit.advance([3])
    assert limit.forbidden().tolist() == [4, 5, 6]  # ab goes on with c, d, and c of cab.
    limit.advance([3])
    assert limit.forbidden().tolist() == [6]


def test_rows_are_apart_and_can_be_marked_and_chosen():
    limit = CopyLimit(SuffixIndex(b"abcabd"), [b"", b"", b"a", b"b", b"c", b"d"], 2, batch=2)
    limit.advance([2, 3])
    mark = limit.mark()
    limit.advance([3, None])
    assert [limit.forbidden(row).tolist() for row in (0, 1)] == [[4, 5], []]
    masked = limit.mask(torch.zeros(2, 6))
    assert masked[0].tolist() == [0, 0, 0, 0, -torch.inf, -torch.inf]
    assert masked[1].tolist() == [0] * 6
    assert limit.left.tolist() == pytest.approx([4 / 6, 1])
    limit.select([1, 0])
    assert [limit.forbidden(row).tolist() for row in (0, 1)] == [[], [4, 5]]
    limit.back(mark)
    assert [limit.forbidden(row).tolist() for row in (0, 1)] == [[], []]


def test_a_limit_of_none_is_refused():
    with pytest.raises(CharlmError, match="--max-copy must be 1 or more, got 0"):
        CopyLimit(SuffixIndex(b"abc"), CHARACTERS, 0)


@functools.cache
def following(context: str) -> list[int]:
    """Return the tokens that follow the longest ending of a context that the training text goes on after."""
    while True:
        places = [
            at for at in range(len(TRAINING) - len(context)) if TRAINING.startswith(context, at)
        ]
        if places:
            return [CHARACTERS.index(TRAINING[at + len(context)].encode()) for at in places]
        context = context[1:]


class ByHeart:
    """Writes what follows its last characters in the training text: it has learnt that by heart."""

    def __init__(self, limit: CopyLimit, seed: int, *, context: int, doubt: float) -> None:
        self.limit, self.random = limit, np.random.default_rng(seed)
        self.context, self.doubt = context, doubt
        self.written, self.running = [[]], np.array([True])
        self.drawn = 0

    def advance(self) -> None:
        text = b"".join(CHARACTERS[token] for token in self.written[0][-self.context :]).decode()
        probabilities = np.full(len(CHARACTERS), self.doubt)
        np.add.at(probabilities, following(text), 1)
        probabilities[[EOS, UNK]] = 0
        logits = self.limit.mask(torch.from_numpy(np.log(np.maximum(probabilities, 1e-300)))[None])
        token = int(self.random.choice(len(CHARACTERS), p=logits[0].softmax(dim=0).numpy()))
        self.drawn += 1
        self.written[0].append(token)
        self.limit.advance([token])

    def mark(self):
        return copy.copy(self.written[0]), self.limit.mark()

    def back(self, mark) -> None:
        self.written[0], limit = copy.copy(mark[0]), mark[1]
        self.limit.back(limit)


def write(most: int, seed: int = 1, *, length: int = 80, context: int = 4, doubt: float = 1e-3):
    writing = ByHeart(
        CopyLimit(SuffixIndex(TRAINING.encode()), CHARACTERS, most),
        seed,
        context=context,
        doubt=doubt,
    )
    ids = list(without_long_copies(writing, writing.limit, length=length))
    assert ids == writing.written[0]
    return b"".join(CHARACTERS[token] for token in ids).decode(), writing


@pytest.mark.parametrize("most", [1, 3, 8, 20])
@pytest.mark.parametrize("context", [1, 3, 12])
def test_a_model_that_knows_its_text_by_heart_copies_no_run_that_is_longer(most, context):
    for seed in range(3):
        text, _ = write(most, seed, context=context)
        assert len(text) == 80
        assert not copies(text, most)


def test_without_the_limit_it_copies_more():
    text, _ = write(10_000)
    assert copies(text, 20)


def test_it_goes_back_where_the_model_had_a_choice():
    """A model of three letters has a choice after "the " and the like; masks alone would break words apart."""
    text, writing = write(12, context=3, doubt=1e-6)
    assert writing.drawn > len(text)
    seen = sum(text[at : at + 4] in TRAINING for at in range(len(text) - 3)) / (len(text) - 3)
    assert seen > 0.8


def test_the_same_seed_writes_the_same_text():
    assert write(8, 5)[0] == write(8, 5)[0] != write(8, 6)[0]


def test_what_is_dropped_is_bounded():
    text, writing = write(4, context=12, doubt=1e-9)
    assert writing.drawn <= 6 * len(text) + 200


def test_where_no_token_may_come_next_and_none_was_before_it_says_so():
    limit = CopyLimit(SuffixIndex(b"aa"), [b"", b"aa"], 1)
    with pytest.raises(CharlmError, match="--max-copy 1: after 0 tokens"):
        list(without_long_copies(ByHeart(limit, 1, context=1, doubt=1), limit, length=5))


def test_a_text_goes_back_further_where_it_comes_to_the_same_end_again():
    retreats = Retreats()
    assert [retreats.tokens_back(40, 0.0, 40) for _ in range(4)] == [1, 2, 4, 8]
    assert retreats.tokens_back(39, 0.05, 39) == 16  # Before that end it is the same trouble.
    assert retreats.tokens_back(41, 0.0, 41) == 1
    assert retreats.tokens_back(50, 0.1, 50) == 0
    assert Retreats().tokens_back(0, 0.0, 0) == 0


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["tokenizer.level=byte"],
        ["tokenizer.level=word"],
        ["tokenizer.level=bpe", "tokenizer.vocabulary_size=300"],
        ["tokenizer.level=word", "tokenizer.words=whitespace"],
    ],
)
def test_the_training_text_s_own_tokens_are_forbidden_after_so_many_characters(overrides):
    training = "the old cat\nthe été\nthe old dog\n"
    tokenizer = learn_tokenizer([training], small_config("x", *overrides).tokenizer)
    texts = tokenizer.token_texts()
    index = SuffixIndex(text_to_index(training.encode(), tokenizer))
    ids = tokenizer.encode(training).tolist()
    for most in (3, 8):
        limit, tokens = CopyLimit(index, texts, most), 0
        while tokens < len(ids) and ids[tokens] not in limit.forbidden():
            limit.advance([ids[tokens]])
            tokens += 1
        assert len(tokenizer.decode(ids[:tokens])) <= most
        assert len(tokenizer.decode(ids[: tokens + 1])) >= most
    assert texts[UNK] == b""
