"""What is written matches the expression, and whatever matches can be written."""

import itertools
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.schema import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK, Tokenizer, learn_tokenizer
from charlm.errors import CharlmError
from charlm.sampling.constraints.regex import Automaton, RegexConstraint, automaton_of

CPU = torch.device("cpu")
LETTERS = learn_tokenizer(["abé\n"], Section(level="char"))
BYTES = learn_tokenizer([], Section(level="byte"))
PROSE = "the cat sat on the mat. the dog ate the cat, été comme hiver.\n" * 9
SUBWORDS = learn_tokenizer([PROSE], Section(level="bpe", vocabulary_size=290))
WORDS = learn_tokenizer([PROSE], Section(level="word"))
SPACED = learn_tokenizer([PROSE], Section(level="word", words="whitespace"))


def expressions(letters: str) -> st.SearchStrategy[str]:
    """Expressions that Python and Rust read alike."""
    atoms = st.sampled_from(
        [*letters, ".", "[^a]", f"[{letters}]", r"\w", "(?:)", f"(?i:{letters[0].upper()})"]
    )

    def more(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.builds("{}{}".format, inner, inner),
            st.builds("(?:{}|{})".format, inner, inner),
            st.builds(
                "({}){}".format,
                inner,
                st.sampled_from(["*", "+", "?", "*?", "??", "{2}", "{1,2}", "{2,}"]),
            ),
        )

    inner = st.recursive(atoms, more, max_leaves=6)
    return st.one_of(
        inner, st.builds("{}|{}".format, inner, inner), st.builds("^{}$".format, inner)
    )


def state_after(automaton: Automaton, ids: list[int]) -> int:
    state = 1
    for token in ids:
        state = int(automaton.following[state, token])
    return state


def texts_of(letters: str, most: int) -> list[str]:
    return [
        "".join(text)
        for size in range(most + 1)
        for text in itertools.product(letters, repeat=size)
    ]


@given(pattern=expressions("abé"))
@settings(max_examples=150)
def test_each_token_is_told_the_fewest_that_must_follow_as_trying_all_texts_tells(pattern):
    most = 5
    found = [text for text in texts_of("abé\n", most) if re.fullmatch(pattern, text)]
    if not found:
        return
    automaton = automaton_of(pattern, LETTERS, records=True)
    assert automaton.shortest == min(map(len, found))
    for begun in texts_of("abé\n", 2):
        state = state_after(automaton, LETTERS.encode(begun).tolist())
        assert (automaton.needed[state, EOS] == 0) == (begun in found)
        for letter in "abé\n":
            longer = [
                len(text) - len(begun) - 1 for text in found if text.startswith(begun + letter)
            ]
            needed = int(automaton.needed[state, LETTERS.encode(letter)[0]])
            # Beyond the texts that were tried there may be longer ones.
            assert needed == min(longer) if longer else needed > most - len(begun) - 1
        assert automaton.needed[state, UNK] > 10**9


@given(pattern=expressions("aé€😀"))
def test_characters_of_several_bytes_match_as_characters(pattern):
    found = {text for text in texts_of("aé€😀b", 3) if re.fullmatch(pattern, text)}
    if not found:
        return
    automaton = automaton_of(pattern, BYTES, records=True)
    for text in texts_of("aé€😀b", 3):
        state = state_after(automaton, BYTES.encode(text).tolist())
        assert (automaton.needed[state, EOS] == 0) == (text in found)


def test_no_byte_is_written_that_is_no_character():
    automaton = automaton_of(".*", BYTES, records=True)
    assert automaton.needed[1, 2 + 0xFF] > 10**9
    assert automaton.needed[1, 2 + 0xC3] == 1
    assert automaton.needed[state_after(automaton, [2 + 0xC3]), EOS] > 10**9


PATTERNS = [
    "[a-z ]{3,9}",
    "the( cat| dog)+",
    "(?:[a-zé]+ )*été.*",
    "[^e]+",
    "(the|them|cat|c)* ?a?t",
    r"[\s\S]{4}x?",
    "(the)? *",
]


@pytest.mark.parametrize(
    "tokenizer",
    [LETTERS, BYTES, SUBWORDS, WORDS, SPACED],
    ids=["char", "byte", "bpe", "word", "spaced"],
)
@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize("pattern", [*PATTERNS, "[ab]{2}|[ab]{7}", "", "^a(bb)*$"])
def test_whatever_is_drawn_within_any_length_matches(tokenizer: Tokenizer, records, pattern):
    try:
        automaton = automaton_of(pattern, tokenizer, records=records)
    except CharlmError as error:
        assert "no text that this model can write" in str(error)
        assert tokenizer in (LETTERS, WORDS, SPACED)
        return
    for length in range(max(1, automaton.shortest), 14):
        for text in written(automaton, tokenizer, length=length, records=records):
            assert re.fullmatch(pattern, text), (length, text)


def written(automaton: Automaton, tokenizer: Tokenizer, *, length: int, records: bool) -> list[str]:
    """Write twenty texts of tokens drawn evenly from those allowed."""
    matching = RegexConstraint(automaton, length=length, batch=20, device=CPU)
    ids: list[list[int]] = [[] for _ in range(20)]
    running = [True] * 20
    if not records:
        matching.tell_ends(lambda row: running.__setitem__(row, False))
    random = np.random.default_rng(length)
    for _ in range(length):
        allowed = matching.mask(torch.zeros(20, tokenizer.vocabulary_size)) == 0
        tokens = [
            int(random.choice(row.nonzero()[:, 0])) if runs else None
            for row, runs in zip(allowed, running, strict=True)
        ]
        for row, token in enumerate(tokens):
            running[row] &= not (records and token == EOS)
            ids[row] += [token] if token is not None and running[row] else []
        matching.advance(tokens)
    return [tokenizer.decode(row) for row in ids]


@given(data=st.data())
@settings(max_examples=150)
def test_a_text_matches_however_its_tokens_are_cut(data):
    tokenizer = data.draw(st.sampled_from([SUBWORDS, WORDS, SPACED]))
    pattern = data.draw(st.sampled_from(PATTERNS))
    ids = data.draw(st.lists(st.integers(2, tokenizer.vocabulary_size - 1), max_size=4))
    try:
        automaton = automaton_of(pattern, tokenizer, records=True)
    except CharlmError:
        return
    data = tokenizer.decode(ids)
    if "�" in data:
        return
    assert (automaton.needed[state_after(automaton, ids), EOS] == 0) == bool(
        re.fullmatch(pattern, data)
    )


def test_a_space_stands_before_words_between_spaces_but_where_a_line_begins():
    cat, dog = SPACED.encode("cat dog").tolist()
    begins = automaton_of("cat dog\n?cat", SPACED, records=False)
    assert begins.needed[state_after(begins, [cat, dog]), EOS] == 1
    assert begins.needed[state_after(begins, [cat, dog, EOS]), cat] == 0
    goes_on = automaton_of(" cat", SPACED, records=False, before=[cat])
    assert goes_on.needed[1, cat] == 0


def test_a_token_that_adds_no_text_is_never_allowed():
    lines = learn_tokenizer(["a\n"], Section(level="char", eos="line"))
    assert lines.token_texts()[EOS] == b""
    automaton = automaton_of(r"[a\n]*", lines, records=False)
    assert (automaton.needed[:, EOS] > 10**9).all()


def test_ways_that_the_alphabet_leaves_open_only_at_first_are_not_taken():
    automaton = automaton_of("a(x|b)|b(z|y)|ab+x", LETTERS, records=True)
    a, b = LETTERS.encode("ab").tolist()
    assert automaton.needed[1, a] == 1 and automaton.needed[1, b] > 10**9
    assert automaton.needed[state_after(automaton, [a, b]), b] > 10**9


@given(
    pattern=expressions("ab"),
    ban=st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2),
    prompt=st.text("ab", max_size=3),
)
def test_what_is_banned_is_no_way_on_and_may_begin_in_the_prompt(pattern, ban, prompt):
    def completes_one(text: str) -> bool:
        return any(
            (prompt + text)[:end].endswith(tuple(ban))
            for end in range(len(prompt) + 1, len(prompt + text) + 1)
        )

    found = [
        text
        for text in texts_of("ab", 5)
        if re.fullmatch(pattern, text) and not completes_one(text)
    ]
    if not found:
        return
    automaton = automaton_of(
        pattern, LETTERS, records=True, before=LETTERS.encode(prompt).tolist(), ban=ban
    )
    assert automaton.shortest == min(map(len, found))
    for text in texts_of("ab", 4):
        state = state_after(automaton, LETTERS.encode(text).tolist())
        assert (automaton.needed[state, EOS] == 0) == (text in found)


def test_a_ban_holds_in_text_of_no_records():
    assert automaton_of("ab|b{3}", LETTERS, records=False, ban=["ab"]).shortest == 3


def test_text_ends_of_no_records_are_told_once_nothing_more_fits():
    a, b = LETTERS.encode("ab").tolist()
    ended: list[int] = []
    matching = RegexConstraint(
        automaton_of("a(bb)*|b", LETTERS, records=False), length=4, batch=2, device=CPU
    )
    matching.tell_ends(ended.append)
    matching.advance([a, b])
    assert ended == [1]
    matching.advance([b, None])
    ended.clear()
    matching.advance([b, None])  # One token is left, and two would be needed.
    assert 0 in ended


def test_an_empty_expression_ends_a_text_before_it_begins():
    ended: list[int] = []
    RegexConstraint(
        automaton_of("", LETTERS, records=False), length=4, batch=2, device=CPU
    ).tell_ends(ended.append)
    assert ended == [0, 1]
    automaton = automaton_of("", LETTERS, records=True)
    assert automaton.needed[1, EOS] == 0 and (automaton.needed[1, 1:] > 10**9).all()


def test_sequences_go_back_and_go_on_from_one_another():
    a, b = LETTERS.encode("ab").tolist()
    matching = RegexConstraint(
        automaton_of("aab|bb", LETTERS, records=True), length=3, batch=2, device=CPU
    )
    zeros = torch.zeros(2, LETTERS.vocabulary_size)
    mark, first = matching.mark(), matching.mask(zeros)
    matching.advance([a, b])
    after = matching.mask(zeros)
    matching.select([1, 1])
    assert torch.equal(matching.mask(zeros), after[[1, 1]])
    matching.back(mark)
    assert torch.equal(matching.mask(zeros), first)
    matching.advance([a, b])
    assert torch.equal(matching.mask(zeros), after)


def test_a_length_that_no_match_has_room_in_is_refused():
    automaton = automaton_of("a{7}|b{5,}", LETTERS, records=True)
    RegexConstraint(automaton, length=5, batch=1, device=CPU)
    with pytest.raises(
        CharlmError, match=r"shortest text that matches has 5 tokens; got --length 4$"
    ):
        RegexConstraint(automaton, length=4, batch=1, device=CPU)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(a", r"no regular expression: missing \)"),
        ("a)|(b", "unbalanced parenthesis"),
        ("[a", "unterminated"),
        ("a{2,1}", "min repeat greater"),
        ("*", "nothing to repeat"),
        ("(?=a)a", "look-around"),
        (r"(a)\1", "look-around"),
        (r"\ba", "look-around"),
        ("a(^b|c)", "look-around|matches"),
        ("x+", "no text that this model can write"),
        ("[a-z&&[0-9]]", "no text at all"),
        (r"\$", "can write"),
        (r"a\\$", "can write"),
        (r"\d", "can write"),
    ],
)
def test_an_expression_that_cannot_be_kept_is_refused_in_a_line(pattern, problem):
    with pytest.raises(CharlmError, match=problem) as told:
        automaton_of(pattern, LETTERS, records=True)
    assert "\n" not in str(told.value) and pattern in str(told.value).replace("\\\\", "\\")


def test_a_table_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("charlm.sampling.constraints.regex._MOST_ENTRIES", 100)
    with pytest.raises(CharlmError, match="too many states"):
        automaton_of("a{99}", LETTERS, records=True)


def test_without_the_library_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    with pytest.raises(
        CharlmError, match=r"outlines-core, which is not installed: pip install 'charlm\[sample\]'"
    ):
        automaton_of("a", LETTERS, records=True)
