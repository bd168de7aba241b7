"""Prompts are read as they were meant, and texts that a model can never write are refused."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import small_config
from counted_bytes import CountedBytes
from sampling.tokenizers import make_model

from charlm.api import Run
from charlm.data.corpus import open_corpus
from charlm.data.resolve import resolve
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import UnsupportedOptionError, quote
from charlm.sampling.prompts import can_write
from charlm.trained_model import Origin, TrainedModel

TEXT = "The cat saw the owl, and the owl saw the café.\nA dog ran.\n" * 20
LEVELS = {
    "char": ["tokenizer.level=char"],
    "byte": ["tokenizer.level=byte"],
    "word": ["tokenizer.level=word"],
    "bpe": ["tokenizer.level=bpe", "tokenizer.vocabulary_size=280"],
    "words between spaces": ["tokenizer.level=word", "tokenizer.words=whitespace"],
    "lower case": ["tokenizer.level=char", "tokenizer.lowercase=true"],
    "lower case bpe": [
        *("tokenizer.level=bpe", "tokenizer.vocabulary_size=280", "tokenizer.lowercase=true")
    ],
}
ACCENT = "\u0301"


@pytest.fixture(scope="module")
def run_of(text_file) -> Callable[..., Run]:
    """A function that returns an untrained model of a level, as a run."""

    def run_of(level: str, text: str = TEXT, *overrides: str) -> Run:
        config = resolve(small_config(text_file, *LEVELS[level], *overrides))
        tokenizer = learn_tokenizer([text], config.tokenizer)
        model = make_model(tokenizer.vocabulary_size)
        parts = open_corpus(config).parts
        corpus = {"fingerprints": {part: text.fingerprint for part, text in parts.items()}}
        origin = Origin(Path("run"), "best", corpus, {"step": 0})
        return Run(TrainedModel(model, tokenizer, config, torch.device("cpu"), origin))

    return run_of


def test_a_space_at_the_end_of_a_prompt_is_the_space_before_the_next_word(run_of):
    for level in LEVELS:
        run = run_of(level)
        for how in ({"count": 4}, {"beams": 2}, {"max_copy": 50}):
            options = {"prompt": "The ", "length": 3} | how
            samples = run.search(**options) if "beams" in how else run.sample(**options)
            for sample in samples:
                text = sample.text
                if level == "lower case":
                    assert text.startswith("the "), (level, how, text)
                elif level in ("word", "bpe"):
                    assert text.startswith("The ") and sample.tokens[0] != 1, (level, how, text)
                    first = run.tokenizer.decode(sample.tokens)
                    assert first.startswith(" ") and text == f"The{first}", (level, how, text)


def test_a_streamed_text_begins_with_the_prompt_and_has_its_number_of_characters(run_of):
    for level in ("char", "word", "bpe"):
        run = run_of(level)
        first, *rest = run.stream(prompt="The ", characters=9, seed=1)
        assert first == "The " and len("".join(rest)) == 9, level
        assert run.sample(prompt="The ", characters=9, seed=1)[0].text == first + "".join(rest)
        # The space of the prompt is no space that the model wrote.
        (sample,) = run.sample(prompt="The ", until=[" "], length=50, seed=1)
        assert len(sample.text) > len("The "), level


def test_the_next_tokens_after_a_space_begin_with_it(run_of):
    for level in ("word", "bpe"):
        run = run_of(level)
        with_space = run.next_tokens("The ", count=1000)
        assert all(token.text.startswith(" ") for token in with_space.tokens), level
        assert sum(token.probability for token in with_space.tokens) == pytest.approx(1), level
    texts = {token.text for token in run_of("byte").next_tokens("caf", count=300).tokens}
    assert {"e", " ", "\\xc3"} < texts


def test_an_expression_matches_what_follows_the_space_of_the_prompt(run_of):
    for level in ("char", "word", "bpe"):
        run = run_of(level)
        for pattern in ("cat|owl", "^(cat|owl)$"):
            for sample in run.sample(prompt="The ", matching=pattern, count=5):
                assert sample.text in ("The cat", "The owl"), (level, pattern)


def test_a_continued_text_may_get_a_space_as_prompt(run_of, tmp_path):
    run = run_of("word")
    state = tmp_path / "state"
    run.sample(prompt="The", length=1, state_out=state)
    (sample,) = run.sample(prompt=" ", state_in=state, length=2)
    assert sample.text.startswith(" ") and not sample.text.startswith("  ")


def problem(call: Callable[..., object], **options: object) -> str:
    with pytest.raises(UnsupportedOptionError) as caught:
        call(**options)
    message = str(caught.value)
    assert "allow_unknown" in message and "\n" not in message
    return message


def test_a_combining_mark_is_written_as_its_code_point_and_the_right_form_is_suggested(run_of):
    run = run_of("char")
    decomposed = unicodedata.normalize("NFD", "café")
    message = problem(run.sample, prompt=decomposed)
    assert "no character U+0301; write the prompt in the Unicode form NFC" in message
    assert run.sample(prompt="café", length=1)
    assert "write it in the Unicode form NFC" in problem(run.sample, until=[decomposed])
    assert ACCENT not in problem(run.sample, until=[ACCENT])
    other = run_of("char", unicodedata.normalize("NFD", TEXT))
    assert "in the Unicode form NFD" in problem(other.sample, prompt="café")
    assert problem(run.sample, prompt="Ž").endswith("it has no character 'Ž'")


def test_a_quotation_mark_of_the_keyboard_is_answered_with_those_of_the_text(run_of):
    run = run_of("char", f"“It’s,” she said. {TEXT}")
    message = problem(run.sample, prompt="It's")
    assert message.endswith("""it has no character "'"; in place of "'", the text has ’""")
    message = problem(run.sample, prompt='"It🙂')
    assert message.endswith("""no character '"', '🙂'; in place of '"', the text has “ ”""")
    assert problem(run_of("char").sample, prompt='"The').endswith("""no character '"'""")


def test_no_message_prints_a_combining_mark_onto_a_quotation_mark(run_of):
    assert quote(ACCENT) == "U+0301"
    assert quote(f"{ACCENT}a") == "'\\u0301a'"
    assert quote(f"e{ACCENT}") == repr(f"e{ACCENT}") and quote("") == "''"
    with pytest.raises(UnsupportedOptionError, match=r"matches U\+0301"):
        run_of("char").sample(matching=ACCENT)


def test_a_word_that_only_occurs_within_a_line_is_suggested_with_its_space(run_of):
    run = run_of("word")
    assert "write ' owl', with a space before it" in problem(run.sample, prompt="owl")
    assert run.sample(prompt=" owl", length=1)[0].text.startswith(" owl")
    assert "space before it" not in problem(run.sample, prompt="zebra")


def test_a_text_to_stop_at_or_to_ban_that_is_never_written_is_refused(run_of):
    # Texts that a model of the level can write, and texts that it cannot.
    cases = {
        "char": (["owl,", "café.\nA"], ["Ž", "owl!", "<EOS>"]),
        "byte": (["Ž", "owl!"], []),
        "word": (["at s", "e owl, a", "ran.\n", " "], ["zebra", "owlcat,owls", "  the"]),
        "bpe": (["Ž", "The"], []),
        "words between spaces": (["at s", "owl, and the", "\nA"], ["owl,and", "zebra", "  "]),
        "lower case": (["the"], ["The"]),
        "lower case bpe": (["the"], ["The"]),
    }
    for level, (possible, impossible) in cases.items():
        run = run_of(level)
        for text in possible:
            assert run.sample(until=[text], length=1, seed=1), (level, text)
        for text in impossible:
            for option in ("until", "ban"):
                message = problem(run.sample, **{option: ["a", text]})
                assert message.startswith(f"{option}: ") and repr(text) in message, (level, text)
                assert message == problem(run.search, beams=2, **{option: ["a", text]})
        if impossible:
            options = {"until": impossible, "ban": impossible, "allow_unknown": True}
            assert run.sample(length=1, **options), level
        if level.startswith("lower case"):
            assert problem(run.sample, until=["The"]).endswith("'The'; write 'the'"), level


def test_tokens_of_several_bytes_are_combined_in_every_way():
    tokens = {b"", b" cat", b" c", b"at", b"x", b"ab", b"ba"}
    texts = {b"".join(parts) for parts in _sequences(sorted(tokens), 4)}
    parts = {
        text[start:end]
        for text in texts
        for start in range(len(text))
        for end in range(start + 1, start + 6)
    }
    alphabet = b" catxb"
    for number in range(6**4):
        text = bytes(alphabet[number // 6**place % 6] for place in range(4))
        assert can_write(tokens, text) is (text in parts), text


def _sequences(tokens: list[bytes], length: int) -> list[list[bytes]]:
    if not length:
        return [[]]
    return [[token, *rest] for token in tokens for rest in _sequences(tokens, length - 1)]


def test_line_ends_of_windows_are_read_as_those_of_the_training_text(run_of):
    for level in ("char", "word"):
        (sample,) = run_of(level).sample(prompt="A dog ran.\r\n", length=1)
        assert sample.text.startswith("A dog ran.\n"), level
        other = run_of(level, TEXT.replace("\n", "\r\n"))
        assert other.sample(prompt="A dog ran.\r\n", length=1)[0].text.startswith("A dog ran.\r\n")


def test_prompts_at_the_limits_are_read(run_of):
    for level in LEVELS:
        run = run_of(level)
        for prompt in ("", " ", "\n", "the " * 1500):
            options = {"prompt": prompt, "length": 2, "allow_unknown": True}
            (sample,) = run.sample(**options, seed=1)
            assert "".join(run.stream(**options, seed=1)) == sample.text, (level, prompt[:9])
        for prompt in ("<UNK> the <EOS>", "Ž"):
            assert run.sample(prompt=prompt, allow_unknown=True, length=2), (level, prompt)


def test_a_token_is_compared_with_a_text_once_for_each_of_its_bytes(monkeypatch):
    monkeypatch.setattr(CountedBytes, "calls", 0)
    tokens = {CountedBytes(b"%d " % number) for number in range(300)} | {CountedBytes(b"=" * 100)}
    text = b"1 2 3 4 5 " * 10
    assert can_write(tokens, text) and not can_write(tokens, text + b"?")
    # From both sides, for two texts.
    assert CountedBytes.calls <= 2 * 2 * sum(map(len, tokens))
