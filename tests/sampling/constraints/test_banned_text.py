"""A banned text is never written, however it is split into tokens."""

import math

import pytest
import torch
from counted_bytes import CountedBytes
from sampling.tokenizers import TOKENIZERS, generate_texts

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import Tokenizer
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import UnsupportedOptionError
from charlm.sampling.constraints.banned_text import BannedText
from charlm.sampling.options import StopCondition

CPU = torch.device("cpu")
ABC = learn_tokenizer(["abc" * 40], Section(level="char"))
A, B, C = ABC.encode("abc").tolist()
BANS = [("t",), ("th",), ("the", "cat"), ("at",), ("é",), ("e c",), ("\n",), ("hhh", "tt", "at e")]


def allowed(constraint: BannedText, tokenizer: Tokenizer, batch: int = 1) -> torch.Tensor:
    """Return which tokens may be written, (batch, vocabulary)."""
    return constraint.mask(torch.zeros(batch, tokenizer.vocabulary_size)) > -math.inf


def test_a_banned_text_is_never_written_whatever_the_tokens_are():
    prompt = "the ca"
    for level, tokenizer in TOKENIZERS.items():
        for ban in BANS:
            texts = generate_texts(tokenizer, prompt, StopCondition(length=80), ban=ban)
            for stream in texts.streams:
                for text in ban:
                    written = stream.text[len(prompt) - len(text) + 1 :]
                    assert text not in written, (level, ban)


def test_a_token_is_not_compared_with_each_end_of_a_long_text(monkeypatch):
    words = " ".join(f"word{number}" for number in range(50))
    tokenizer = learn_tokenizer([words], Section(level="word", min_count=1))
    texts = [CountedBytes(text) for text in tokenizer.token_texts()]
    monkeypatch.setattr(Tokenizer, "token_texts", lambda *_, **__: texts)
    monkeypatch.setattr(CountedBytes, "calls", 0)
    BannedText(tokenizer, [words[:200], words[200:]], [], batch=1, device=CPU)
    assert CountedBytes.calls <= sum(map(len, texts))


def occurrences(tokenizer: Tokenizer, ids: list[int], ban: tuple[str, ...]) -> int:
    space = b" " if tokenizer.separates_by_space else b""
    text = b"".join(space + tokenizer.token_bytes[token] for token in ids)
    return sum(text.count(banned.encode()) for banned in ban)


def test_exactly_the_tokens_that_complete_a_banned_text_are_forbidden():
    for level, tokenizer in TOKENIZERS.items():
        for ban in [("t",), ("cat",), ("é",), ("at e", "he")]:
            for before in ("", "c", "the ca", "that"):
                ids = tokenizer.encode(before).tolist()
                constraint = BannedText(tokenizer, ban, ids, batch=1, device=CPU)
                already = occurrences(tokenizer, ids, ban)
                expected = [
                    occurrences(tokenizer, [*ids, token], ban) == already
                    for token in range(2, tokenizer.vocabulary_size)
                ]
                found = allowed(constraint, tokenizer)[0, 2:].tolist()
                assert found == expected, (level, ban, before)


def test_a_banned_text_that_begins_in_the_prompt_counts():
    constraint = BannedText(ABC, ["abc"], [C, A, B], batch=2, device=CPU)
    assert allowed(constraint, ABC, 2)[:, [A, B, C]].tolist() == [[True, True, False]] * 2
    constraint.update([A, None])
    expected = [[True, True, True], [True, True, False]]
    assert allowed(constraint, ABC, 2)[:, [A, B, C]].tolist() == expected
    constraint.select([1, 1, 0])
    assert allowed(constraint, ABC, 3)[:, C].tolist() == [False, False, True]


def test_a_backward_model_completes_a_banned_text_at_its_beginning():
    constraint = BannedText(ABC, ["abc"], [C, B], batch=1, device=CPU, backward=True)
    assert allowed(constraint, ABC)[0, [A, B, C]].tolist() == [False, True, True]


def test_banning_every_token_is_one_clear_error():
    spaced = learn_tokenizer(["ab aa"], Section(level="word", words="whitespace"))
    with pytest.raises(UnsupportedOptionError, match="ban: every token contains 'a' or"):
        BannedText(spaced, ["a", "\n"], [], batch=1, device=CPU)
