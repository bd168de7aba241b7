"""Texts that match a regular expression as a whole, for any tokenizer.

The expression becomes a finite automaton over bytes (by outlines-core, which uses Rust's
regex-automata), and that becomes an automaton over the model's tokens: Willard and Louf 2023
(arXiv:2307.09702), section 3. Beyond the paper, the automaton holds for each token the minimum
number of tokens that a text needs after it. A text can therefore never reach a state from which it
cannot match, or cannot match in the tokens that are left.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.tokenizer import EOS, Tokenizer
from charlm.errors import UnsupportedOptionError, quote
from charlm.sampling.constraints.byte_automaton import (
    ByteAutomaton,
    Table,
    build_byte_automaton,
)

States = npt.NDArray[np.int64]
_DEAD = 0
_NEVER = 2**30
# Limits of an automaton, which is built in a second.
_MAX_STATES = 2**16
_MAX_ENTRIES = 2**26  # States times tokens.


class Automaton:
    """An automaton over tokens. State 0 is dead.

    Attributes:
        first: State in which a text begins.
        min_tokens: Number of tokens of the shortest text that matches; 2^30 if there is none.
    """

    def __init__(self, product: "_Product", distances: Mapping[int, int]) -> None:
        """Prepare the rows of the states, which are computed when a text reaches them.

        Args:
            product: The automaton.
            distances: Distance in tokens of each state that can be reached from a text that
                matches.
        """
        self.first = product.first
        self.min_tokens = distances[product.first]
        self._product = product
        self._states = np.array(sorted(distances))
        self._distances = np.array([distances[state] for state in self._states.tolist()])
        self._rows: dict[int, tuple[States, Tensor]] = {}

    def next_states(self, state: int) -> States:
        """Return the state after each token, (vocabulary,)."""
        return self._row(state)[0]

    def tokens_needed(self, state: int) -> Tensor:
        """Return the minimum number of tokens that a text needs after each token to match.

        It is 2^30 if the text can no longer match, (vocabulary,).
        """
        return self._row(state)[1]

    def _row(self, state: int) -> tuple[States, Tensor]:
        if state not in self._rows:
            after = self._product.next_states(state)
            needed = self._distances[np.searchsorted(self._states, after)]
            if self._product.records:
                needed[EOS] = 0 if self._product.accepts(state) else _NEVER
            self._rows[state] = after, torch.from_numpy(needed)
        return self._rows[state]


class RegexConstraint:
    """Forbids each token after which a text cannot match, or not in the tokens that are left.

    A constraint of `generate`. New text matches as a whole; the prompt does not count. A record may
    end with <EOS> where it matches. Other text ends where it matches and no token may follow; see
    `on_end`.
    """

    def __init__(self, automaton: Automaton, *, length: int, batch: int) -> None:
        """Begin all sequences in the first state.

        Args:
            automaton: Automaton of the expression over the model's tokens.
            length: Maximum number of tokens of a text.
            batch: Number of sequences.

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
        self._automaton = automaton
        self._states = [automaton.first] * batch
        self._tokens_left = length
        self._on_end: Callable[[int], None] | None = None

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), minus infinity for forbidden tokens."""
        needed = torch.stack([self._automaton.tokens_needed(state) for state in self._states])
        return logits.masked_fill((needed >= self._tokens_left).to(logits.device), -torch.inf)

    def update(self, tokens: Sequence[int | None]) -> None:
        """Take in the next token of each sequence, None for a sequence that has ended."""
        self._states = [
            state if token is None else int(self._automaton.next_states(state)[token])
            for state, token in zip(self._states, tokens, strict=True)
        ]
        self._tokens_left -= 1
        self._report_ends()

    def on_end(self, stop: Callable[[int], None]) -> None:
        """Call `stop`, now and later, with the row of each sequence that no token may follow."""
        self._on_end = stop
        self._report_ends()

    def _report_ends(self) -> None:
        if self._on_end is None:
            return
        for row, state in enumerate(self._states):
            # A text always matches where no token may follow, because a state that needs more
            # tokens than are left is never reached.
            if self._automaton.tokens_needed(state).amin() >= self._tokens_left:
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
            no text of these tokens matches, or it has too many states, or outlines-core is not
            installed.
    """
    texts = tokenizer.token_texts()
    prompt = b"".join(texts[token] for token in before)
    banned = tuple(text.encode() for text in ban)
    automaton = _build(
        pattern,
        pending,
        tokenizer,
        records,
        tokenizer.separates_by_space and (not before or before[-1] == EOS),
        banned,
        prompt[max(0, len(prompt) - max(map(len, banned), default=0)) :],
    )
    if automaton.min_tokens == _NEVER:
        raise UnsupportedOptionError(
            "matching",
            f"no text that this model can write matches {quote(pattern)}; use only characters and "
            f"words of its training text{', or ban less' * bool(ban)}",
        )
    return automaton


@lru_cache(maxsize=4)  # A request for N texts has N jobs with the same automaton.
def _build(
    pattern: str,
    pending: str,
    tokenizer: Tokenizer,
    records: bool,
    starts_line: bool,
    banned: tuple[bytes, ...],
    prompt: bytes,
) -> Automaton:
    expression = build_byte_automaton(pattern, pending)
    product = _Product(
        expression,
        tokenizer,
        records=records,
        starts_line=starts_line,
        banned=_banned_automaton(banned, prompt),
    )
    targets: dict[int, list[int]] = {_DEAD: []}
    new = [product.first]
    while new:
        num_states = len(targets) + len(new)
        if num_states > _MAX_STATES or num_states * product.vocabulary_size > _MAX_ENTRIES:
            raise UnsupportedOptionError(
                "matching",
                f"{quote(pattern)} has too many states for {product.vocabulary_size} tokens; use "
                "smaller counts in braces",
            )
        for state in new:
            targets[state] = np.unique(product.next_states(state)).tolist()
        new = sorted({target for source in new for target in targets[source]} - targets.keys())
    return Automaton(product, _distances(targets, filter(product.accepts, targets)))


class _Product:
    """The product of three automata: the expression, line starts, and the banned texts.

    A state of the product is a number made from a state of the expression, whether a line starts,
    and a state of the banned texts. A token that is separated by spaces has none at the start of a
    line.
    """

    def __init__(
        self,
        expression: ByteAutomaton,
        tokenizer: Tokenizer,
        *,
        records: bool,
        starts_line: bool,
        banned: tuple[Table, int],
    ) -> None:
        spaced = tokenizer.separates_by_space
        texts = tokenizer.token_texts(eos=b"" if records else None)
        all_texts = tokenizer.token_texts()
        banned_table, banned_state = banned
        self.records = records
        self.vocabulary_size = len(texts)
        self._final = expression.final
        # Within a line, then at the start of a line.
        self._walks = [_Walk(expression.table, texts)] * 2
        if spaced:
            self._walks[1] = _Walk(expression.table, [text.removeprefix(b" ") for text in texts])
        self._starts_line = np.zeros(len(texts), dtype=np.int64)
        self._starts_line[EOS] = spaced
        self._num_banned_states = len(banned_table)
        self._after_banned = lru_cache(maxsize=64)(_Walk(banned_table, all_texts).after)
        self._ends_freely = not records or not all_texts[EOS]
        self.first: int = self._number(expression.first, starts_line, banned_state)

    def _number(self, state: Any, starts_line: Any, banned_state: Any) -> Any:
        return (2 * state + starts_line) * self._num_banned_states + banned_state

    def next_states(self, number: int) -> States:
        """Return the state after each token, (vocabulary,)."""
        rest, banned_state = divmod(number, self._num_banned_states)
        state, starts_line = divmod(rest, 2)
        after = self._walks[starts_line].after(state)
        after_banned = self._after_banned(banned_state)
        numbers: States = self._number(after, self._starts_line, after_banned)
        numbers[(after == _DEAD) | (after_banned == _DEAD)] = _DEAD
        return numbers

    def accepts(self, number: int) -> bool:
        """Return whether a text may end in a state."""
        rest, banned_state = divmod(number, self._num_banned_states)
        may_end = self._ends_freely or self._after_banned(banned_state)[EOS] != _DEAD
        return rest // 2 in self._final and bool(may_end)


class _Walk:
    """Follows an automaton over the bytes of all tokens at once, common beginnings once."""

    def __init__(self, table: Table, texts: Sequence[bytes]) -> None:
        """Number the beginnings of the tokens; a token that adds no text leads nowhere."""
        self._table = table.ravel()
        sizes = ((text, size) for text in texts for size in range(len(text) + 1))
        beginnings = sorted({text[:size] for text, size in sizes}, key=len)
        numbers = {beginning: number for number, beginning in enumerate(beginnings)}
        self._numbers = np.array([numbers[text] if text else len(numbers) for text in texts])
        self._num_states = len(numbers) + 1  # The last one stays dead.
        # For the beginnings of each length: the one that is a byte shorter, and the last byte.
        self._levels = [
            np.array([(numbers[text[:-1]], text[-1]) for text in level]).T
            for size, level in groupby(beginnings, key=len)
            if size
        ]

    def after(self, state: int) -> States:
        """Return the state after each token, (vocabulary,)."""
        states = np.zeros(self._num_states, dtype=np.int64)
        states[0] = state
        stop = 1
        for shorter, byte in self._levels:
            start, stop = stop, stop + len(byte)
            states[start:stop] = self._table[256 * states[shorter] + byte]
        after: States = states[self._numbers]
        return after


def _banned_automaton(texts: Sequence[bytes], before: bytes) -> tuple[Table, int]:
    """Return an automaton over bytes that dies where a banned text ends, and its state.

    Aho and Corasick 1975: a state is the longest end of the text so far that is a proper prefix of
    a banned text. A banned text within the prompt does not count.

    Args:
        texts: Banned texts.
        before: The end of the prompt.

    Returns:
        State after each byte, (states, 256), and the state after the prompt.
    """
    longer: dict[bytes, set[bytes]] = {b"": set()}
    for text in texts:
        for size in range(len(text)):
            longer.setdefault(text[:size], set()).add(text[: size + 1])
    states = {prefix: state for state, prefix in enumerate(sorted(longer, key=len), 1)}
    table = np.zeros((len(states) + 1, 256), dtype=np.int32)
    table[states[b""]] = states[b""]
    longest_end: dict[bytes, int] = {}  # State of the longest proper end.
    for prefix, state in states.items():
        if prefix:
            table[state] = table[longest_end[prefix]]
        for text in longer[prefix]:
            longest_end[text] = int(table[state, text[-1]])
            is_dead = text in texts or longest_end[text] == _DEAD
            table[state, text[-1]] = _DEAD if is_dead else states[text]
    ends = (before[start:] for start in range(len(before) + 1))
    return table, next(states[end] for end in ends if end in states)


def _distances(targets: Mapping[int, Iterable[int]], accepting: Iterable[int]) -> dict[int, int]:
    """Return each state's distance in tokens from an accepting state.

    Breadth-first search, backward from the accepting states.
    """
    sources: dict[int, list[int]] = {state: [] for state in targets}
    for state, row in targets.items():
        for target in row:
            sources[target].append(state)
    distances = dict.fromkeys(targets, _NEVER)
    layer = set(accepting)
    depth = 0
    while layer:
        distances |= dict.fromkeys(layer, depth)
        reached = {state for target in layer for state in sources[target]}
        layer = {state for state in reached if distances[state] == _NEVER}
        depth += 1
    return distances
