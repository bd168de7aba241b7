"""Texts that match a regular expression, whatever the tokens are made of.

The expression becomes a finite automaton over bytes (outlines-core, on Rust's regex-automata), and that an automaton
over the model's tokens: Willard and Louf 2023 (arXiv:2307.09702), section 3. Beyond the paper, each token is told how
many more a text needs after it at the least, so that no text comes to a place from which it cannot match, or not in
the tokens that are left to it.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.errors import CharlmError

Numbers = npt.NDArray[np.int32]
_DEAD, _FAR = 0, 2**30
# A noncharacter that stands for the text's end: automata of the library take the first alternative that matches, so
# that of a|ab, had it no end, they would leave ab out.
_END = "\U0010ffff"
_MOST_ENTRIES = 2**26  # Of the table of states and tokens: 4 bytes each, two tables.


@dataclass(frozen=True)
class Automaton:
    """What tokens may follow one another in a text that matches. State 0 is dead, 1 is where a text begins.

    Attributes:
        following: State after each token, (states, vocabulary).
        needed: Tokens that a text needs after that token at the least, to match, (states, vocabulary); where it can
            never match, 2^30.
        shortest: Tokens of the shortest text that matches.
    """

    following: Numbers
    needed: Numbers
    shortest: int


class RegexConstraint:
    """Forbids each token after which a text cannot match any more, or not in the tokens left to it.

    A constraint of `generate`. What is written matches as a whole; the prompt does not count. Of records, <EOS> may
    come where the text matches. Any other text ends where it matches and nothing more may come: `tell_ends`.
    """

    def __init__(
        self, automaton: Automaton, *, length: int, batch: int, device: torch.device
    ) -> None:
        """Begin.

        Args:
            automaton: Of the expression and the model's tokens.
            length: Most tokens of a text.
            batch: Sequences.
            device: Of the logits.

        Raises:
            CharlmError: The shortest text that matches is longer.
        """
        if automaton.shortest > length:
            raise CharlmError(
                f"--matching: the shortest text that matches has {automaton.shortest} tokens; got --length {length}"
            )
        self._following = torch.from_numpy(automaton.following).to(device)
        self._needed = torch.from_numpy(automaton.needed).to(device)
        self._least = self._needed.amin(dim=-1)
        self._states = torch.ones(batch, dtype=torch.int64, device=device)
        self._left = length
        self._stop: Callable[[int], None] | None = None

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), with those of forbidden tokens minus infinity."""
        return logits.masked_fill(self._needed[self._states] >= self._left, -torch.inf)

    def advance(self, tokens: Sequence[int | None]) -> None:
        """Learn the next token of each sequence, None for one that has ended."""
        ids = torch.tensor(
            [UNK if token is None else token for token in tokens], device=self._states.device
        )
        self._states = self._following[self._states, ids].long()
        self._left -= 1
        self._tell()

    def tell_ends(self, stop: Callable[[int], None]) -> None:
        """Have `stop` called with the number of each sequence that ends by itself, now and later."""
        self._stop = stop
        self._tell()

    def select(self, rows: Sequence[int]) -> None:
        """Let sequence i go on from what was sequence rows[i]."""
        self._states = self._states[torch.tensor(rows, device=self._states.device)]

    def mark(self) -> tuple[Tensor, int]:
        """Return what `back` needs to come back to this place."""
        return self._states, self._left

    def back(self, mark: tuple[Tensor, int]) -> None:
        """Go back to a place."""
        self._states, self._left = mark

    def _tell(self) -> None:
        if self._stop is not None:
            # A state that needs more than is left is never reached: where nothing may come, the text matches.
            for row in (self._least[self._states] >= self._left).nonzero()[:, 0].tolist():
                self._stop(row)


def automaton_of(
    pattern: str,
    tokenizer: Tokenizer,
    *,
    records: bool,
    before: Sequence[int] = (),
    ban: Sequence[str] = (),
) -> Automaton:
    r"""Return the automaton of an expression over a model's tokens.

    Args:
        pattern: In the syntax of Rust's regex crate: Python's without look-around and references, with classes such as
            `\p{Lu}`, and `\w` with combining marks; a ^ that begins it and a $ that ends it change nothing.
        tokenizer: Of the model.
        records: Whether <EOS> ends a text; else it is a token like others, where it adds any text.
        before: Ids of the prompt.
        ban: What `BannedText` forbids, so that no text comes to a place where only that could follow.

    Raises:
        CharlmError: The expression is none, or no text of these tokens matches, or the table would be too large.
    """
    bytewise, begin, ends = _bytewise(pattern)
    spaced = tokenizer.separates_by_space
    texts = tokenizer.token_texts(eos=b"" if records else None)
    # By whether a line begins: there a token that stands between spaces has none before it.
    walks = [
        _Walk(bytewise, texts),
        _Walk(bytewise, [text.removeprefix(b" ") if spaced else text for text in texts]),
    ]
    starts = np.zeros(len(texts), dtype=np.int32)
    starts[EOS] = spaced
    told = tokenizer.token_texts()
    banned, at = _banned([text.encode() for text in ban], b"".join(told[token] for token in before))
    ban_walk = _Walk(banned, told)
    unbanned = np.stack([ban_walk.after(state) for state in range(len(banned))])
    line_starts = spaced and (not before or before[-1] == EOS)
    # Three numbers in one: the state of the expression, whether a line begins, the state of the bans.
    rows: dict[int, Numbers] = {}
    new = [(2 * begin + line_starts) * len(banned) + at]
    while new:
        if (len(rows) + len(new)) * len(texts) > _MOST_ENTRIES:
            raise CharlmError(
                f"--matching: {pattern!r} has too many states for {len(texts)} tokens; use smaller counts in braces"
            )
        for state in new:
            place, at = divmod(state, len(banned))
            to = walks[place % 2].after(place // 2)
            dead = (to == _DEAD) | (unbanned[at] == _DEAD)
            rows[state] = np.where(dead, _DEAD, (2 * to + starts) * len(banned) + unbanned[at])
        new = sorted(
            {int(to) for state in new for to in np.unique(rows[state])} - rows.keys() - {_DEAD}
        )
    may_end = (unbanned[:, EOS] != _DEAD) | (not records or not told[EOS])
    accepting = [
        state // len(banned) // 2 in ends and bool(may_end[state % len(banned)]) for state in rows
    ]
    return _numbered(pattern, rows, accepting, records=records)


class _Walk:
    """Goes over the bytes of all tokens at once."""

    def __init__(self, bytewise: Numbers, texts: Sequence[bytes]) -> None:
        """Begin; what adds nothing to a text leads nowhere."""
        self._bytewise, self._vocabulary_size = bytewise, len(texts)
        order = sorted(
            (token for token in range(len(texts)) if texts[token]),
            key=lambda token: len(texts[token]),
        )
        self._groups = [
            (np.array(tokens), np.array([list(texts[token]) for token in tokens]))
            for tokens in (
                list(group) for _, group in groupby(order, key=lambda token: len(texts[token]))
            )
        ]

    def after(self, state: int) -> Numbers:
        """Return the state after each token, (vocabulary,)."""
        found = np.zeros(self._vocabulary_size, dtype=np.int32)
        for tokens, columns in self._groups:
            at = np.full(len(tokens), state, dtype=np.int32)
            for column in columns.T:
                at = self._bytewise[at, column]
            found[tokens] = at
        return found


def _numbered(
    pattern: str, rows: dict[int, Numbers], accepts: Sequence[bool], *, records: bool
) -> Automaton:
    """Return an automaton whose states are numbered as they were found, the dead one first."""
    numbers = np.zeros(max(rows) + 1, dtype=np.int32)
    numbers[list(rows)] = np.arange(1, len(rows) + 1)
    following = numbers[np.stack([np.zeros_like(next(iter(rows.values()))), *rows.values()])]
    accepting = np.array([False, *accepts])
    distance = _distances(following, accepting)
    if distance[1] == _FAR:
        raise CharlmError(
            f"--matching: no text that this model can write matches {pattern!r}; ask for what its text has"
        )
    needed = distance[following]
    if records:
        needed[:, EOS] = np.where(accepting, 0, _FAR)
    return Automaton(following, needed, int(distance[1]))


def _banned(texts: Sequence[bytes], before: bytes) -> tuple[Numbers, int]:
    """Return an automaton over bytes that dies where a text ends, (states, 256), and its state after a prompt.

    Aho and Corasick 1975: a state is the longest end of what was read that begins a text. What a prompt has whole does
    not count.
    """
    begun = sorted({text[:size] for text in texts for size in range(len(text))} | {b""}, key=len)
    number = {beginning: at for at, beginning in enumerate(begun, 1)}

    def longest_end(data: bytes) -> int:
        return next(number[data[at:]] for at in range(len(data) + 1) if data[at:] in number)

    table = np.zeros((len(begun) + 1, 256), dtype=np.int32)
    for beginning, state in number.items():
        for byte in range(256):
            read = beginning + bytes([byte])
            table[state, byte] = _DEAD if read.endswith(tuple(texts)) else longest_end(read)
    longest = max(map(len, begun))
    return table, longest_end(before[len(before) - min(longest, len(before)) :])


def _distances(following: Numbers, accepting: npt.NDArray[np.bool_]) -> Numbers:
    """Return how many tokens each state is from one that accepts, (states,); breadth first, backwards."""
    before: list[set[int]] = [set() for _ in following]
    for state, row in enumerate(following):
        for to in np.unique(row):
            before[to].add(state)
    distance = np.where(accepting, 0, _FAR).astype(np.int32)
    layer, depth = set(np.flatnonzero(accepting).tolist()), 0
    while layer:
        depth += 1
        layer = {state for to in layer for state in before[to] if distance[state] == _FAR}
        distance[list(layer)] = depth
    return distance


def _bytewise(pattern: str) -> tuple[Numbers, int, set[int]]:
    """Return an automaton over bytes, (states, 256), where it begins, and the states of texts that match."""
    inner = pattern.removeprefix("^")
    if re.search(r"(?<!\\)(?:\\\\)*\$\Z", inner):
        inner = inner[:-1]
    if _python_problem(inner):
        _index(inner, pattern)  # By itself: a)|(b would be sound in parentheses.
    index = _index(f"(?:{inner}){_END}", pattern)
    if index is None:
        raise CharlmError(f"--matching: no text at all matches {pattern!r}, or a part of it")
    transitions: dict[int, dict[int, int]] = index.get_transitions()
    states = {state for state in transitions} | {
        to for row in transitions.values() for to in row.values()
    }
    number = {state: at for at, state in enumerate(sorted(states), 1)}
    table = np.zeros((len(states) + 1, 256), dtype=np.int32)
    for state, row in transitions.items():
        taken = [(byte, number[to]) for byte, to in row.items() if byte < 256]
        table[number[state], [byte for byte, _ in taken]] = [to for _, to in taken]
    after = np.arange(len(table), dtype=np.int32)
    for byte in _END.encode():
        after = table[after, byte]
    final = [number[state] for state in index.get_final_states()]
    return (
        table,
        number[index.get_initial_state()],
        set(np.flatnonzero(np.isin(after, final)).tolist()),
    )


def _index(expression: str, pattern: str) -> Any:
    """Return the library's automaton over single bytes; None where nothing matches."""
    try:
        import outlines_core  # type: ignore[import-untyped]  # It has no types.
    except ImportError:
        raise CharlmError(
            "--matching needs outlines-core, which is not installed: pip install 'charlm[sample]'"
        ) from None
    try:
        one_by_one = outlines_core.Vocabulary(
            256, {bytes([byte]): [byte] for byte in range(256)}
        )  # 256 is its <EOS>.
        return outlines_core.Index(expression, one_by_one)
    except ValueError as error:
        if "incompatible with the regex" in str(error):  # A place from which no byte leads on.
            return None
        raise CharlmError(f"--matching: {_problem(pattern)}") from None


def _problem(pattern: str) -> str:
    problem = _python_problem(pattern)
    if problem:
        return f"{pattern!r} is no regular expression: {problem}"
    return (
        f"{pattern!r} asks for more than a finite automaton can keep; leave out look-around, references, \\b, and ^ or "
        "$ within it"
    )


def _python_problem(pattern: str) -> str | None:
    """Return what Python's `re` says of an expression, None if it is sound; the library says no more than no."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            return str(error)
    return None
