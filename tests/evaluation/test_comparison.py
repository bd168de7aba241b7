"""Models side by side on the same text, and the intervals of their differences."""

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import small_config, train_all
from hypothesis import given, settings
from hypothesis import strategies as st

import charlm
from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import Tokenizer
from charlm.data.utf8 import split_lines
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CharlmError, OptionError
from charlm.evaluation.comparison import difference_intervals
from charlm.evaluation.lines import nats_of_lines, piece_of_lines

TEXT = "A b.\n\nC dé\n"


def encoded(text: str, section: Section, learn: str = TEXT) -> tuple[np.ndarray, Tokenizer]:
    tokenizer = learn_tokenizer([learn], section)
    pieces, ends = [text.encode()], [False]
    if tokenizer.separates_by_space or section.eos == "line":
        keep = not tokenizer.separates_by_space
        pieces = [
            (line if keep else line.removesuffix("\n")).encode() for line in split_lines(text)
        ]
        ends = [True] * len(pieces)
    return tokenizer.encode_pieces(pieces, ends), tokenizer


def tokens_of_lines(ids: np.ndarray, tokenizer: Tokenizer, text: str) -> list[float]:
    """Return the number of tokens that each line is charged for."""
    log_p = np.full(len(ids), -1.0)
    return nats_of_lines(ids, log_p, tokenizer, split_lines(text), records=False).tolist()


def test_each_line_is_charged_for_its_own_tokens_at_every_level():
    for section, tokens in [
        (Section(level="char", eos="none"), [5, 1, 5]),
        (Section(level="byte", eos="none"), [5, 1, 6]),
        (Section(level="word", eos="none"), [4, 1, 3]),
        (Section(level="word", words="whitespace"), [3, 1, 3]),
        (Section(level="char", eos="line"), [6, 2, 6]),
    ]:
        assert tokens_of_lines(*encoded(TEXT, section), TEXT) == tokens, section
    ids, tokenizer = encoded(TEXT, Section(level="bpe", vocabulary_size=300, eos="none"))
    nats = tokens_of_lines(ids, tokenizer, TEXT)  # The merges decide how many the others are.
    assert (nats[1], sum(nats)) == (1, len(ids))


def test_the_nats_of_a_line_are_those_of_its_tokens():
    ids, tokenizer = encoded("ab\nc", Section(level="char", eos="none"), "abc\n")
    log_p = -np.array([1, 2, 4, 8.0])
    lines = split_lines("ab\nc")
    assert nats_of_lines(ids, log_p, tokenizer, lines, records=False).tolist() == [7, 8]


def test_empty_lines_cost_a_model_of_records_nothing():
    tokenizer = learn_tokenizer(["ab"], Section(level="char"))
    ids = tokenizer.encode_pieces([b"a", b"bb"], [True, True])
    lines = split_lines("a\r\n\n\r\nbb\n")
    nats = nats_of_lines(ids, -np.array([1, 2, 4, 8, 16.0]), tokenizer, lines, records=True)
    assert nats.tolist() == [3, 0, 0, 28]


def test_a_model_without_a_token_for_the_line_end_is_refused():
    ids, tokenizer = encoded("ab\nab\n", Section(level="char", eos="none"), "ab")
    with pytest.raises(CharlmError, match=r"has 2 lines and the tokens of the model have 1, "):
        tokens_of_lines(ids, tokenizer, "ab\nab\n")


@settings(max_examples=60)
@given(
    st.text(st.sampled_from("ab .\n"), max_size=60),
    st.sampled_from(["char", "byte", "word", "bpe"]),
)
def test_the_lines_together_have_every_nat_of_the_text(text, level):
    size = {"vocabulary_size": 300} if level == "bpe" else {}
    ids, tokenizer = encoded(text, Section(level=level, eos="none", **size), "ab ab.\n")
    log_p = -np.arange(1.0, len(ids) + 1)
    nats = nats_of_lines(ids, log_p, tokenizer, split_lines(text), records=False)
    assert len(nats) == len(split_lines(text))
    assert nats.sum() == pytest.approx(-log_p.sum())
    alone = [len(tokenizer.encode(line)) for line in split_lines(text)]
    assert tokens_of_lines(ids, tokenizer, text) == alone


def test_pieces_by_hand():
    assert piece_of_lines(["ab", "cd", "ef", "gh", "i"], 4).tolist() == [0, 0, 1, 1, 1]
    assert piece_of_lines(["a"], 4).tolist() == [0]
    assert piece_of_lines(["aaaa", "b", "bbb"], 4).tolist() == [0, 1, 1]


def test_a_difference_that_is_equal_in_every_piece_has_no_spread():
    nats = np.array([[1.0, 2, 3], [2, 3, 4]])
    ((low, high),) = difference_intervals(nats, np.array([10.0, 10, 10]))
    assert (low, high) == pytest.approx((0.1 / math.log(2), 0.1 / math.log(2)))
    # One bit per character in both pieces, however long.
    nats = np.array([[0.0, 0], [1, 3]]) * math.log(2)
    assert difference_intervals(nats, np.array([1.0, 3])) == [pytest.approx((1, 1))]


def test_all_models_have_the_same_pieces():
    random = np.random.default_rng(3)
    nats, characters = random.uniform(100, 200, size=50), np.full(50, 100.0)
    ((low, high),) = difference_intervals(np.stack([nats, nats + 1.0]), characters)
    assert high - low == pytest.approx(0, abs=1e-9)  # What both find hard cancels out.


def test_one_piece_has_no_interval():
    nats = np.array([[1.0], [2], [3]])
    assert difference_intervals(nats, np.array([10.0])) == [None, None]


def test_models_of_records_are_compared_on_a_text_with_any_line_ends(trained_records):
    run = charlm.load(trained_records)
    for line_end in ("\n", "\r", "\r\n", "\u2028"):
        result = run.compare([run], text=f"ban{line_end}dera{line_end}" * 40)
        assert result.runs[0].loss_nats > 0, line_end


def test_a_separator_that_all_models_read_as_eos_costs_what_perplexity_says(text_file, tmp_path):
    corpus = tmp_path / "documents.txt"
    document = text_file.read_text(encoding="utf-8")[:90]
    corpus.write_text(f"{document}\n\f" * 9, encoding="utf-8")
    settings = ("training.steps=4", r"corpus.separator=\f", "tokenizer.eos=document")
    train_all(small_config(corpus, *settings), tmp_path / "run")
    train_all(small_config(corpus, "training.steps=4"), tmp_path / "text")
    run, reads_text = charlm.load(tmp_path / "run"), charlm.load(tmp_path / "text")
    text = corpus.read_text(encoding="utf-8")
    same = run.compare([run], text=text)
    assert same.runs[0].unknown_share == 0
    expected = run.perplexity(text=text).bits_per_character
    assert same.runs[0].bits_per_character == pytest.approx(expected, abs=1e-6)
    assert run.compare([reads_text], text=text).runs[0].unknown_share > 0


def test_two_texts_and_pieces_without_characters_are_refused(trained, text_file):
    run = charlm.load(trained)
    with pytest.raises(OptionError, match=r"^path: cannot be combined with text; leave one out$"):
        run.compare([run], TEXT, path=text_file)
    with pytest.raises(OptionError, match=r"^block_characters: must be at least 1, got 0$"):
        run.compare([run], TEXT, block_characters=0)


def test_a_run_that_reads_in_both_directions_is_named(trained, text_file, tmp_path):
    both = small_config(text_file, "model.direction=both", "training.steps=2")
    train_all(both, tmp_path / "both")
    with pytest.raises(CharlmError, match=f"^{tmp_path / 'both'}: model.direction: both gives"):
        charlm.load(trained).compare([charlm.load(tmp_path / "both")], TEXT)


def test_a_run_without_a_token_for_the_line_end_is_named(trained, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. " * 100, encoding="utf-8")
    train_all(small_config(text, "training.steps=2"), tmp_path / "run")
    with pytest.raises(CharlmError, match=f"^{tmp_path / 'run'}: the text has 2 lines and "):
        charlm.load(trained).compare([charlm.load(tmp_path / "run")], "The cat\nThe dog\n")


def test_the_columns_of_the_differences_are_aligned_beside_names_of_any_length(trained):
    scored = charlm.load(trained).compare([charlm.load(trained)], TEXT)
    for name in ("runs/a", "runs/name-of-24-characters", "runs/" + "a" * 60):
        result = replace(
            scored,
            runs=[replace(run, run=name) for run in scored.runs],
            differences=[replace(row, run=name) for row in scored.differences],
        )
        heading, row = [*result.lines()][4:6]
        assert heading.startswith(f"against {name} ") and len(heading) == len(row), name


def test_the_perplexity_of_a_diverged_run_fits_its_column(trained):
    scored = charlm.load(trained).compare([charlm.load(trained)], TEXT)
    diverged = replace(scored, runs=[replace(run, perplexity=1e304) for run in scored.runs])
    heading, row, *_ = diverged.lines()
    assert len(heading) == len(row)


def test_lines_of_words_between_spaces_end_at_every_line_end(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The cat sat.\nThe dog slept.\n" * 200, encoding="utf-8")
    words = ("tokenizer.level=word", "tokenizer.words=whitespace", "training.steps=2")
    run = charlm.train(small_config(text, *words), out=tmp_path / "run", progress=False)
    (difference,) = run.compare([run], "The cat sat.\x0cThe dog slept.\rThe cat\n").differences
    assert difference.bits_per_character == 0
