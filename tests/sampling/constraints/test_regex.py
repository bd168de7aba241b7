"""Every text that is written matches the expression, and every text that matches can be written."""

import itertools
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import UnsupportedOptionError
from charlm.sampling.constraints import byte_automaton, regex_process
from charlm.sampling.constraints.regex import Automaton, RegexConstraint, build_automaton

LETTERS = learn_tokenizer(["abé\n"], Section(level="char"))
BYTES = learn_tokenizer([], Section(level="byte"))
run_process = byte_automaton._run_process
PROSE = "the cat sat on the mat. the dog ate the cat, été comme hiver.\n" * 9
SUBWORDS = learn_tokenizer([PROSE], Section(level="bpe", vocabulary_size=290))
WORDS = learn_tokenizer([PROSE], Section(level="word"))
SPACED = learn_tokenizer([PROSE], Section(level="word", words="whitespace"))


@pytest.fixture(autouse=True, scope="module")
def _no_processes():
    """Build the automata of bytes in this process, which saves its start."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(byte_automaton, "_run_process", regex_process.build)
        yield


def expressions(letters: str) -> st.SearchStrategy[str]:
    """Expressions that mean the same in Python and Rust."""
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
    state = automaton.first
    for token in ids:
        state = int(automaton.next_states(state)[token])
    return state


def texts_of(letters: str, most: int) -> list[str]:
    return [
        "".join(text)
        for size in range(most + 1)
        for text in itertools.product(letters, repeat=size)
    ]


@given(pattern=expressions("abé"))
@settings(max_examples=150)
def test_the_tokens_needed_are_those_that_trying_all_texts_finds(pattern):
    most = 5
    matches = [text for text in texts_of("abé\n", most) if re.fullmatch(pattern, text)]
    if not matches:
        return
    automaton = build_automaton(pattern, LETTERS, records=True)
    assert automaton.min_tokens == min(map(len, matches))
    for prefix in texts_of("abé\n", 2):
        state = state_after(automaton, LETTERS.encode(prefix).tolist())
        assert (automaton.tokens_needed(state)[EOS] == 0) == (prefix in matches)
        for letter in "abé\n":
            longer = [
                len(text) - len(prefix) - 1 for text in matches if text.startswith(prefix + letter)
            ]
            needed = int(automaton.tokens_needed(state)[LETTERS.encode(letter)[0]])
            # There may be matches longer than the texts that were tried.
            assert needed == min(longer) if longer else needed > most - len(prefix) - 1
        assert automaton.tokens_needed(state)[UNK] > 10**9


@given(pattern=expressions("aé€😀"))
def test_characters_of_several_bytes_match_as_characters(pattern):
    matches = {text for text in texts_of("aé€😀b", 3) if re.fullmatch(pattern, text)}
    if not matches:
        return
    automaton = build_automaton(pattern, BYTES, records=True)
    for text in texts_of("aé€😀b", 3):
        state = state_after(automaton, BYTES.encode(text).tolist())
        assert (automaton.tokens_needed(state)[EOS] == 0) == (text in matches)


def test_no_bytes_are_written_that_are_no_characters():
    automaton = build_automaton(".*", BYTES, records=True)
    assert automaton.tokens_needed(automaton.first)[2 + 0xFF] > 10**9
    assert automaton.tokens_needed(automaton.first)[2 + 0xC3] == 1
    assert automaton.tokens_needed(state_after(automaton, [2 + 0xC3]))[EOS] > 10**9


PATTERNS = [
    "[a-z ]{3,9}",
    "the( cat| dog)+",
    "(?:[a-zé]+ )*été.*",
    "[^e]+",
    "(the|them|cat|c)* ?a?t",
    r"[\s\S]{4}x?",
    "(the)? *",
]


TOKENIZERS = {"char": LETTERS, "byte": BYTES, "bpe": SUBWORDS, "word": WORDS, "spaced": SPACED}


@pytest.mark.parametrize("level", TOKENIZERS)
def test_every_text_that_is_drawn_within_any_length_matches(level):
    tokenizer = TOKENIZERS[level]
    for pattern in [*PATTERNS, "[ab]{2}|[ab]{7}", "", "^a(bb)*$"]:
        for records in (True, False):
            try:
                automaton = build_automaton(pattern, tokenizer, records=records)
            except UnsupportedOptionError as error:
                assert "no text that this model can write" in str(error)
                assert level in ("char", "word", "spaced"), pattern
                continue
            for length in range(max(1, automaton.min_tokens), 14):
                for text in written(automaton, tokenizer, length=length, records=records):
                    assert re.fullmatch(pattern, text), (pattern, records, length, text)


def written(automaton: Automaton, tokenizer: Tokenizer, *, length: int, records: bool) -> list[str]:
    """Return twenty texts of tokens that are drawn evenly from the allowed ones."""
    matching = RegexConstraint(automaton, length=length, batch=20)
    ids: list[list[int]] = [[] for _ in range(20)]
    running = [True] * 20
    if not records:
        matching.on_end(lambda row: running.__setitem__(row, False))
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
        matching.update(tokens)
    return [tokenizer.decode(row) for row in ids]


@given(data=st.data())
@settings(max_examples=150)
def test_a_text_matches_however_it_is_split_into_tokens(data):
    tokenizer = data.draw(st.sampled_from([SUBWORDS, WORDS, SPACED]))
    pattern = data.draw(st.sampled_from(PATTERNS))
    ids = data.draw(st.lists(st.integers(2, tokenizer.vocabulary_size - 1), max_size=4))
    try:
        automaton = build_automaton(pattern, tokenizer, records=True)
    except UnsupportedOptionError:
        return
    data = tokenizer.decode(ids)
    if "�" in data:
        return
    assert (automaton.tokens_needed(state_after(automaton, ids))[EOS] == 0) == bool(
        re.fullmatch(pattern, data)
    )


def test_a_space_precedes_words_between_spaces_except_at_the_start_of_a_line():
    cat, dog = SPACED.encode("cat dog").tolist()
    new = build_automaton("cat dog\n?cat", SPACED, records=False)
    assert new.tokens_needed(state_after(new, [cat, dog]))[EOS] == 1
    assert new.tokens_needed(state_after(new, [cat, dog, EOS]))[cat] == 0
    continued = build_automaton(" cat", SPACED, records=False, before=[cat])
    assert continued.tokens_needed(continued.first)[cat] == 0


def test_a_token_that_adds_no_text_is_never_allowed():
    lines = learn_tokenizer(["a\n"], Section(level="char", eos="line"))
    assert lines.token_texts()[EOS] == b""
    automaton = build_automaton(r"[a\n]*", lines, records=False)
    state = state_after(automaton, lines.encode("a").tolist())
    assert automaton.tokens_needed(automaton.first)[EOS] > 10**9
    assert automaton.tokens_needed(state)[EOS] > 10**9


def test_a_path_that_the_alphabet_cannot_complete_is_not_taken():
    automaton = build_automaton("a(x|b)|b(z|y)|ab+x", LETTERS, records=True)
    a, b = LETTERS.encode("ab").tolist()
    needed = automaton.tokens_needed(automaton.first)
    assert needed[a] == 1 and needed[b] > 10**9
    assert automaton.tokens_needed(state_after(automaton, [a, b]))[b] > 10**9


@given(
    pattern=expressions("ab"),
    ban=st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=2),
    prompt=st.text("ab", max_size=3),
)
def test_no_match_contains_a_banned_text_that_may_begin_in_the_prompt(pattern, ban, prompt):
    def is_banned(text: str) -> bool:
        return any(
            (prompt + text)[:end].endswith(tuple(ban))
            for end in range(len(prompt) + 1, len(prompt + text) + 1)
        )

    texts = texts_of("abé\n", 4)
    matches = {text for text in texts if re.fullmatch(pattern, text) and not is_banned(text)}
    if not matches:
        return
    automaton = build_automaton(
        pattern, LETTERS, records=True, before=LETTERS.encode(prompt).tolist(), ban=ban
    )
    assert automaton.min_tokens == min(map(len, matches))
    for text in texts:
        state = state_after(automaton, LETTERS.encode(text).tolist())
        assert (automaton.tokens_needed(state)[EOS] == 0) == (text in matches)


def test_a_record_does_not_end_where_its_end_completes_a_banned_text():
    assert LETTERS.token_texts()[EOS] == b"\n"
    automaton = build_automaton("ab?", LETTERS, records=True, ban=["b\n"])
    a, b = LETTERS.encode("ab").tolist()
    assert automaton.tokens_needed(state_after(automaton, [a]))[EOS] == 0
    assert automaton.tokens_needed(automaton.first)[a] == 0
    assert automaton.tokens_needed(state_after(automaton, [a]))[b] > 10**9


def test_the_message_names_the_ban_that_leaves_no_match():
    with pytest.raises(UnsupportedOptionError, match=r"matches 'ab'; [^;]*, or ban less$"):
        build_automaton("ab", LETTERS, records=True, ban=["b"])


def test_a_banned_text_counts_without_records():
    assert build_automaton("ab|b{3}", LETTERS, records=False, ban=["ab"]).min_tokens == 3


def test_without_records_a_text_ends_where_no_token_may_follow():
    a, b = LETTERS.encode("ab").tolist()
    ended: list[int] = []
    matching = RegexConstraint(
        build_automaton("a(bb)*|b", LETTERS, records=False), length=4, batch=2
    )
    matching.on_end(ended.append)
    matching.update([a, b])
    assert ended == [1]
    matching.update([b, None])
    ended.clear()
    matching.update([b, None])  # One token is left, and two would be needed.
    assert 0 in ended


def test_an_empty_expression_ends_a_text_at_once():
    ended: list[int] = []
    RegexConstraint(build_automaton("", LETTERS, records=False), length=4, batch=2).on_end(
        ended.append
    )
    assert ended == [0, 1]
    automaton = build_automaton("", LETTERS, records=True)
    needed = automaton.tokens_needed(automaton.first)
    assert needed[EOS] == 0 and (needed[1:] > 10**9).all()


def test_a_length_below_that_of_every_match_is_refused():
    automaton = build_automaton("a{7}|b{5,}", LETTERS, records=True)
    RegexConstraint(automaton, length=5, batch=1)
    with pytest.raises(
        UnsupportedOptionError,
        match=r"^matching: the shortest text that matches has 5 tokens; raise length, which is 4$",
    ):
        RegexConstraint(automaton, length=4, batch=1)


def test_an_expression_may_end_with_a_comment():
    automaton = build_automaton("(?x)a b # a comment", LETTERS, records=True)
    a, b = LETTERS.encode("ab").tolist()
    assert automaton.min_tokens == 2
    assert automaton.tokens_needed(state_after(automaton, [a, b]))[EOS] == 0


def test_an_expression_with_too_many_states_is_refused(monkeypatch):
    monkeypatch.setattr(byte_automaton, "_run_process", run_process)
    with pytest.raises(UnsupportedOptionError, match=r"\{30\}' has too many states; use small"):
        build_automaton("(?x) (a|b)* a (a|b) {30}", LETTERS, records=True)
    assert build_automaton("a{20}", LETTERS, records=True).min_tokens == 20


def test_the_texts_of_a_request_share_an_automaton():
    first, second = (build_automaton("ab*", BYTES, records=True, before=ids) for ids in ([], [70]))
    assert first is second


def test_where_a_match_begins_is_no_reason_for_many_states():
    assert build_automaton(r"\w{99}", LETTERS, records=True).min_tokens == 99
    spaces = build_automaton("[a-z ]{30}", WORDS, records=True, pending=" ")
    assert spaces.min_tokens < 30


def test_many_long_banned_texts_are_respected():
    ban = ["ab" * 400 + "é" * count for count in range(1, 60)]
    automaton = build_automaton("[abé]*", LETTERS, records=True, ban=ban)
    state = state_after(automaton, LETTERS.encode("ab" * 400).tolist())
    assert automaton.tokens_needed(state)[LETTERS.encode("é")[0]] > 10**9


PROBLEMS = {
    "(a": r"no regular expression: missing \)",
    "a)|(b": "unbalanced parenthesis",
    "[a": "unterminated",
    "a{2,1}": "min repeat greater",
    "*": "nothing to repeat",
    "(?=a)a": "look-around",
    r"(a)\1": "look-around",
    r"\ba": "look-around",
    "a(^b|c)": "look-around|matches",
    "x+": "no text that this model can write",
    "[a-z&&[0-9]]": "no text at all",
    "a[a-z&&[0-9]]": "no text at all",
    r"\$": "can write",
    r"a\\$": "can write",
    r"\d": "can write",
}


def test_an_expression_that_cannot_be_an_automaton_is_refused_in_one_line():
    for pattern, problem in PROBLEMS.items():
        with pytest.raises(UnsupportedOptionError, match=problem) as caught:
            build_automaton(pattern, LETTERS, records=True)
        message = str(caught.value)
        assert message.startswith("matching: ") and "\n" not in message, pattern
        assert pattern in message.replace("\\\\", "\\"), pattern


@pytest.mark.parametrize("limit", ["_MAX_ENTRIES", "_MAX_STATES"])
def test_an_automaton_that_would_take_long_to_explore_is_refused(monkeypatch, limit):
    monkeypatch.setattr(f"charlm.sampling.constraints.regex.{limit}", 90)
    with pytest.raises(UnsupportedOptionError, match="too many states for 6 tokens"):
        build_automaton("a{91}", LETTERS, records=True)


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    with pytest.raises(
        UnsupportedOptionError,
        match=r"outlines-core, which is not installed: pip install 'charlm-rnn\[sample\]'",
    ):
        build_automaton("a", LETTERS, records=True)
