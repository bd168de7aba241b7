"""Texts that match a regular expression as a whole, for any tokenizer.

The expression becomes a finite automaton over bytes (by outlines-core, which uses Rust's
regex-automata), and that becomes an automaton over the model's tokens: Willard and Louf 2023
(arXiv:2307.09702), section 3. Beyond the paper, the automaton holds for each token the minimum
number of tokens that a text needs after it. A text can therefore never reach a state from which it
cannot match, or cannot match in the tokens that are left.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.errors import UnsupportedOptionError, quote
from charlm.sampling.constraints.regex_size import check_size
from charlm.version import install_hint

Table = npt.NDArray[np.int32]
_DEAD = 0
_NEVER = 2**30
# A noncharacter that marks the end of the text. The library's automata prefer the first alternative
# that matches: without an end mark they would never match the second alternative of a|ab.
_END = "\U0010ffff"
_MAX_ENTRIES = 2**26  # Of each of two tables of states and tokens, at 4 bytes per entry.


@dataclass(frozen=True)
class Automaton:
    """An automaton over tokens. State 0 is dead; a text begins in state 1.

    Attributes:
        next_state: State after each token, (states, vocabulary).
        tokens_needed: Minimum number of tokens that a text needs after the token to match,
            (states, vocabulary); 2^30 if it can no longer match.
        min_tokens: Number of tokens of the shortest text that matches.
    """

    next_state: Table
    tokens_needed: Table
    min_tokens: int


class RegexConstraint:
    """Forbids each token after which a text cannot match, or not in the tokens that are left.

    A constraint of `generate`. New text matches as a whole; the prompt does not count. A record may
    end with <EOS> where it matches. Other text ends where it matches and no token may follow; see
    `on_end`.
    """

    def __init__(
        self, automaton: Automaton, *, length: int, batch: int, device: torch.device
    ) -> None:
        """Begin all sequences in the first state.

        Args:
            automaton: Automaton of the expression over the model's tokens.
            length: Maximum number of tokens of a text.
            batch: Number of sequences.
            device: Device of the logits.

        Raises:
            UnsupportedOptionError: Even the shortest text that matches has more tokens.
        """
        if automaton.min_tokens > length:
            raise UnsupportedOptionError(
                "matching",
                f"the shortest text that matches has {automaton.min_tokens} tokens; raise {{}}, "
                f"which is {length}",
                others=["length"],
            )
        self._next_state = torch.from_numpy(automaton.next_state).to(device)
        self._tokens_needed = torch.from_numpy(automaton.tokens_needed).to(device)
        self._min_needed = self._tokens_needed.amin(dim=-1)
        self._states = torch.ones(batch, dtype=torch.int64, device=device)
        self._tokens_left = length
        self._on_end: Callable[[int], None] | None = None

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), minus infinity for forbidden tokens."""
        return logits.masked_fill(
            self._tokens_needed[self._states] >= self._tokens_left, -torch.inf
        )

    def update(self, tokens: Sequence[int | None]) -> None:
        """Take in the next token of each sequence, None for a sequence that has ended."""
        ids = [UNK if token is None else token for token in tokens]
        columns = torch.tensor(ids, device=self._states.device)
        self._states = self._next_state[self._states, columns].long()
        self._tokens_left -= 1
        self._report_ends()

    def on_end(self, stop: Callable[[int], None]) -> None:
        """Call `stop`, now and later, with the row of each sequence that no token may follow."""
        self._on_end = stop
        self._report_ends()

    def select(self, rows: Sequence[int]) -> None:
        """Let sequence i continue what was sequence rows[i]."""
        self._states = self._states[torch.tensor(rows, device=self._states.device)]

    def save(self) -> tuple[Tensor, int]:
        """Return the state, for `restore`."""
        return self._states, self._tokens_left

    def restore(self, saved: tuple[Tensor, int]) -> None:
        """Return to a saved state."""
        self._states, self._tokens_left = saved

    def _report_ends(self) -> None:
        if self._on_end is None:
            return
        # A text always matches where no token may follow, because a state that needs more tokens
        # than are left is never reached.
        ended = self._min_needed[self._states] >= self._tokens_left
        for row in ended.nonzero()[:, 0].tolist():
            self._on_end(row)


def build_automaton(
    pattern: str,
    tokenizer: Tokenizer,
    *,
    records: bool,
    before: Sequence[int] = (),
    pending: str = "",
    ban: Sequence[str] = (),
) -> Automaton:
    r"""Return the automaton of a regular expression over a model's tokens.

    Args:
        pattern: Expression in the syntax of Rust's regex crate: that of Python without look-around
            and backreferences, with classes such as `\p{Lu}`, and with combining marks in `\w`. A
            leading ^ and a trailing $ change nothing.
        tokenizer: Tokenizer of the model.
        records: Whether <EOS> ends a text; else it is a token like others, if it adds any text.
        before: Ids of the prompt.
        pending: Spaces at the end of the prompt that a text begins with, before what matches.
        ban: Texts that `BannedText` forbids, so that no text reaches a state that only they leave.

    Raises:
        UnsupportedOptionError: The pattern is no regular expression, or cannot be an automaton, or
            no text of these tokens matches, or the table would be too large, or outlines-core is
            not installed.
    """
    expression = _byte_automaton(pattern, pending)
    product = _Product(expression, tokenizer, records=records, before=before, ban=ban)
    rows: dict[int, Table] = {}
    new = [product.first]
    while new:
        if (len(rows) + len(new)) * product.vocabulary_size > _MAX_ENTRIES:
            raise UnsupportedOptionError(
                "matching",
                f"{quote(pattern)} has too many states for {product.vocabulary_size} tokens; use "
                "smaller counts in braces",
            )
        for state in new:
            rows[state] = product.next_states(state)
        reached = {int(state) for source in new for state in np.unique(rows[source])}
        new = sorted(reached - rows.keys() - {_DEAD})
    accepts = [product.accepts(state) for state in rows]
    automaton = _renumber(rows, accepts, records=records)
    if automaton.min_tokens == _NEVER:
        raise UnsupportedOptionError(
            "matching",
            f"no text that this model can write matches {quote(pattern)}; use only characters and "
            f"words of its training text{', or ban less' * bool(ban)}",
        )
    return automaton


class _ByteAutomaton(NamedTuple):
    """An automaton over bytes, whose state 0 is dead.

    Attributes:
        table: State after each byte, (states, 256).
        first: State in which a text begins.
        final: States of texts that match.
    """

    table: Table
    first: int
    final: frozenset[int]


class _Product:
    """The product of three automata: the expression, line starts, and the banned texts.

    A state of the product is a number made from a state of the expression, whether a line starts,
    and a state of the banned texts. A token that is separated by spaces has none at the start of a
    line.
    """

    def __init__(
        self,
        expression: _ByteAutomaton,
        tokenizer: Tokenizer,
        *,
        records: bool,
        before: Sequence[int],
        ban: Sequence[str],
    ) -> None:
        spaced = tokenizer.separates_by_space
        texts = tokenizer.token_texts(eos=b"" if records else None)
        all_texts = tokenizer.token_texts()
        prompt = b"".join(all_texts[token] for token in before)
        banned, banned_state = _banned_automaton([text.encode() for text in ban], prompt)
        banned_walk = _Walk(banned, all_texts)
        self.vocabulary_size = len(texts)
        self._final = expression.final
        # Within a line, then at the start of a line.
        self._walks = [
            _Walk(expression.table, texts),
            _Walk(
                expression.table, [text.removeprefix(b" ") if spaced else text for text in texts]
            ),
        ]
        self._starts_line = np.zeros(len(texts), dtype=np.int32)
        self._starts_line[EOS] = spaced
        self._after_banned = np.stack([banned_walk.after(state) for state in range(len(banned))])
        ends_freely = not records or not all_texts[EOS]
        self._may_end = (self._after_banned[:, EOS] != _DEAD) | ends_freely
        line_starts = spaced and (not before or before[-1] == EOS)
        self.first = self._number(expression.first, line_starts, banned_state)

    def _number(self, state: Any, starts_line: Any, banned_state: Any) -> Any:
        return (2 * state + starts_line) * len(self._after_banned) + banned_state

    def next_states(self, number: int) -> Table:
        """Return the state after each token, (vocabulary,)."""
        rest, banned_state = divmod(number, len(self._after_banned))
        state, starts_line = divmod(rest, 2)
        after = self._walks[starts_line].after(state)
        after_banned = self._after_banned[banned_state]
        is_dead = (after == _DEAD) | (after_banned == _DEAD)
        numbers: Table = np.where(
            is_dead, _DEAD, self._number(after, self._starts_line, after_banned)
        )
        return numbers

    def accepts(self, number: int) -> bool:
        """Return whether a text may end in a state."""
        rest, banned_state = divmod(number, len(self._after_banned))
        return rest // 2 in self._final and bool(self._may_end[banned_state])


class _Walk:
    """Follows an automaton over the bytes of all tokens at once."""

    def __init__(self, table: Table, texts: Sequence[bytes]) -> None:
        """Group the tokens by length; a token that adds no text leads nowhere."""
        self._table = table
        self._vocabulary_size = len(texts)

        def size(token: int) -> int:
            return len(texts[token])

        tokens = sorted((token for token in range(len(texts)) if texts[token]), key=size)
        groups = [list(group) for _, group in groupby(tokens, key=size)]
        self._groups = [
            (np.array(group), np.array([list(texts[token]) for token in group])) for group in groups
        ]

    def after(self, state: int) -> Table:
        """Return the state after each token, (vocabulary,)."""
        result = np.zeros(self._vocabulary_size, dtype=np.int32)
        for tokens, columns in self._groups:
            states = np.full(len(tokens), state, dtype=np.int32)
            for column in columns.T:
                states = self._table[states, column]
            result[tokens] = states
        return result


def _renumber(rows: dict[int, Table], accepts: Sequence[bool], *, records: bool) -> Automaton:
    """Return an automaton with consecutive states in the order of `rows`, the dead state first."""
    numbers = np.zeros(max(rows) + 1, dtype=np.int32)
    numbers[list(rows)] = np.arange(1, len(rows) + 1)
    dead_row = np.zeros_like(next(iter(rows.values())))
    next_state = numbers[np.stack([dead_row, *rows.values()])]
    accepting = np.array([False, *accepts])
    distance = _distances(next_state, accepting)
    tokens_needed = distance[next_state]
    if records:
        tokens_needed[:, EOS] = np.where(accepting, 0, _NEVER)
    return Automaton(next_state, tokens_needed, int(distance[1]))


def _banned_automaton(texts: Sequence[bytes], before: bytes) -> tuple[Table, int]:
    """Return an automaton over bytes that dies where a banned text ends, and its state.

    Aho and Corasick 1975: a state is the longest end of the text so far that is a proper prefix of
    a banned text. A banned text within the prompt does not count.

    Args:
        texts: Banned texts.
        before: The prompt.

    Returns:
        State after each byte, (states, 256), and the state after the prompt.
    """
    prefixes = sorted({text[:size] for text in texts for size in range(len(text))} | {b""}, key=len)
    states = {prefix: state for state, prefix in enumerate(prefixes, 1)}

    def longest_end(data: bytes) -> int:
        ends = (data[start:] for start in range(len(data) + 1))
        return next(states[end] for end in ends if end in states)

    table = np.zeros((len(prefixes) + 1, 256), dtype=np.int32)
    for prefix, state in states.items():
        for byte in range(256):
            text = prefix + bytes([byte])
            table[state, byte] = _DEAD if text.endswith(tuple(texts)) else longest_end(text)
    longest = max(map(len, prefixes))
    return table, longest_end(before[len(before) - min(longest, len(before)) :])


def _distances(next_state: Table, accepting: npt.NDArray[np.bool_]) -> Table:
    """Return each state's distance in tokens from an accepting state, (states,).

    Breadth-first search, backward from the accepting states.
    """
    sources: list[set[int]] = [set() for _ in next_state]
    for state, row in enumerate(next_state):
        for target in np.unique(row):
            sources[target].add(state)
    distance = np.where(accepting, 0, _NEVER).astype(np.int32)
    layer = set(np.flatnonzero(accepting).tolist())
    depth = 0
    while layer:
        depth += 1
        reached = {state for target in layer for state in sources[target]}
        layer = {state for state in reached if distance[state] == _NEVER}
        distance[list(layer)] = depth
    return distance


def _byte_automaton(pattern: str, pending: str) -> _ByteAutomaton:
    inner = pattern.removeprefix("^")
    if re.search(r"(?<!\\)(?:\\\\)*\$\Z", inner):  # A $ at the end that is not escaped.
        inner = inner[:-1]
    check_size(inner)
    if _python_problem(inner):
        _compile(inner, pattern)  # Alone, because a)|(b would be valid within parentheses.
    try:
        index = _compile(f"{pending}(?:{inner}){_END}", pattern)
    except UnsupportedOptionError:  # After (?x), a comment without a line end hides what follows.
        index = _compile(f"{pending}(?:{inner}\n){_END}", pattern)
    if index is None:
        raise UnsupportedOptionError(
            "matching", f"no text at all matches {quote(pattern)}, or a part of it"
        )
    transitions: dict[int, dict[int, int]] = index.get_transitions()
    targets = {target for row in transitions.values() for target in row.values()}
    numbers = {state: number for number, state in enumerate(sorted(targets | set(transitions)), 1)}
    table = np.zeros((len(numbers) + 1, 256), dtype=np.int32)
    for state, row in transitions.items():
        by_byte = {byte: numbers[target] for byte, target in row.items() if byte < 256}
        table[numbers[state], list(by_byte)] = list(by_byte.values())
    after_end = np.arange(len(table), dtype=np.int32)
    for byte in _END.encode():
        after_end = table[after_end, byte]
    final = np.isin(after_end, [numbers[state] for state in index.get_final_states()])
    return _ByteAutomaton(
        table=table,
        first=numbers[index.get_initial_state()],
        final=frozenset(np.flatnonzero(final).tolist()),
    )


def _compile(expression: str, pattern: str) -> Any:
    """Return the library's automaton over single bytes; None if nothing matches."""
    try:
        import outlines_core  # type: ignore[import-untyped]  # It has no types.
    except ImportError:
        raise UnsupportedOptionError(
            "matching",
            f"needs outlines-core, which is not installed: {install_hint('sample')}",
        ) from None
    try:
        # Id 256 is the library's <EOS>.
        vocabulary = outlines_core.Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})
        return outlines_core.Index(expression, vocabulary)
    except ValueError as error:
        if "incompatible with the regex" in str(error):  # A state that no byte leaves.
            return None
        raise UnsupportedOptionError("matching", _problem(pattern)) from None


def _problem(pattern: str) -> str:
    problem = _python_problem(pattern)
    if problem:
        return f"{quote(pattern)} is no regular expression: {problem}"
    return (
        f"{quote(pattern)} needs more than a finite automaton; leave out look-around, "
        "backreferences, \\b, and ^ or $ within the expression"
    )


def _python_problem(pattern: str) -> str | None:
    """Return what Python's `re` finds wrong with an expression; the library gives no reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            return str(error)
    return None
