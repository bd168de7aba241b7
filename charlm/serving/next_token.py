"""What may come next at a position of a text: the model's distribution and the filtered one."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from charlm.data.tokenizer import EOS, UNK
from charlm.evaluation.probes.passage import entropy_bits
from charlm.sampling.drawing import without_unknown
from charlm.sampling.filters import apply_filters
from charlm.sampling.options import Filters
from charlm.sampling.prompts import Prompt, first_token, read_prompt
from charlm.serving.reading import Reader, record_bounds, split_text
from charlm.serving.training_text import TrainingText
from charlm.storage.results import Result

CANDIDATES = 10


@dataclass(frozen=True)
class Candidate(Result):
    """A token that may come next.

    Attributes:
        token: Id of the token.
        label: Text of the token by itself.
        adds: Text that it adds at the position; empty for a token that cannot be written alone,
            such as a part of a character.
        probability: Probability after the settings.
        model_probability: Probability before them.
        rank: Number of tokens that are at least as probable before the settings, itself included.
    """

    token: int
    label: str
    adds: str
    probability: float
    model_probability: float
    rank: int


@dataclass(frozen=True)
class NextToken(Result):
    """The distribution of the token at a position of a text.

    Attributes:
        start: Character at which the token begins.
        candidates: The most probable tokens before the settings; <UNK>, which is never written,
            is not among them.
        actual: The token that the text has there, or None at its end.
        possible: Number of tokens that the settings leave.
        writable: Number of tokens of the vocabulary without <UNK>.
        entropy_bits: Entropy of the model's distribution.
    """

    start: int
    candidates: list[Candidate]
    actual: Candidate | None
    possible: int
    writable: int
    entropy_bits: float


@dataclass(frozen=True)
class _Context:
    """The text before a position.

    Attributes:
        ids: Tokens of the record before the position.
        start: Character at which the next token begins.
        before: Text before that.
        pending: What the next token has to begin with, which the text has already.
        actual: Id of the token at the position; None at the end of the text.
    """

    ids: Sequence[int]
    start: int
    before: str
    pending: str = ""
    actual: int | None = None


def predict_next(
    reader: Reader,
    text: str,
    at: int,
    filters: Filters,
    *,
    max_copy: int | None = None,
    training: TrainingText | None = None,
) -> NextToken:
    """Return the distribution of the token at a position of a text.

    Args:
        reader: Reader of the model.
        text: The text.
        at: Character; if it lies within a token, the distribution is that of this token.
        filters: Filters of the sampling.
        max_copy: Maximum number of characters copied from the training text, or None.
        training: Training text, if there is a `max_copy`.
    """
    context = _context(reader, text, at)
    logits = reader.predict_next(context.ids)[None]
    for constraint in first_token(reader.trained, Prompt([], context.pending)):
        logits = constraint.mask(logits.to(reader.trained.device)).cpu()
    model = logits.softmax(dim=-1)[0]
    allowed = without_unknown(logits)
    if max_copy is not None and training is not None:
        allowed = training.mask_copies(allowed, context.ids, max_copy)
    filtered = _filter(allowed, context.ids, filters)
    return _describe(reader, context, model, filtered)


def _filter(allowed: Tensor, ids: Sequence[int], filters: Filters) -> Tensor:
    """Return the probabilities after the filters, (vocabulary,); zeros if nothing is allowed."""
    if allowed.max() == -torch.inf:
        return torch.zeros_like(allowed[0])
    logits = apply_filters(allowed, torch.tensor([list(ids)], dtype=torch.int64), filters)
    if filters.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)[0]
    return logits.softmax(dim=-1)[0]


def _context(reader: Reader, text: str, at: int) -> _Context:
    return _context_at_end(reader, text) if at >= len(text) else _context_within(reader, text, at)


def _context_at_end(reader: Reader, text: str) -> _Context:
    separator = reader.trained.record_separator
    record = text if separator is None else text.split(separator)[-1]
    prompt = read_prompt(reader.trained, record, allow_unknown=True)
    return _Context(prompt.ids, len(text), record, prompt.pending)


def _context_within(reader: Reader, text: str, at: int) -> _Context:
    pieces = split_text(reader.trained, text)
    # The token that has the character; of a character in several tokens, the first of them.
    number = bisect_right(pieces.ends, at)
    while number > 0 and _is_part(pieces.ends, number - 1):
        number -= 1
    start = pieces.ends[number - 1] if number else 0
    return _Context(
        ids=_record_before(reader, pieces.ids, number),
        start=start,
        before=text[:start],
        actual=pieces.ids[number] if number < len(pieces.ids) else None,
    )


def _is_part(ends: Sequence[int], number: int) -> bool:
    """Return whether a token has no text, because its character ends with a later token."""
    return ends[number] == (ends[number - 1] if number else 0)


def _record_before(reader: Reader, ids: Sequence[int], number: int) -> Sequence[int]:
    """Return the tokens before a token in its record."""
    begin = 0
    for first, last in record_bounds(reader.trained, ids[:number]):
        is_over = reader.trained.writes_records and ids[last - 1] == EOS
        begin = last if is_over else first
    return ids[begin:number]


def _describe(reader: Reader, context: _Context, model: Tensor, filtered: Tensor) -> NextToken:
    def candidate(token: int) -> Candidate:
        return Candidate(
            token=token,
            label=reader.labels[token],
            adds=_adds(reader, context, token),
            probability=float(filtered[token]),
            model_probability=float(model[token]),
            rank=int((model >= model[token]).sum()),
        )

    order = model.sort(descending=True, stable=True).indices.tolist()[: CANDIDATES + 1]
    return NextToken(
        start=context.start,
        candidates=[candidate(token) for token in order if token != UNK][:CANDIDATES],
        actual=None if context.actual is None else candidate(context.actual),
        possible=int((filtered > 0).sum()),
        writable=int((model > 0).sum()) - int(model[UNK] > 0),
        entropy_bits=entropy_bits(model[model > 0].log().numpy()),
    )


def _adds(reader: Reader, context: _Context, token: int) -> str:
    """Return the text that a token adds; empty if it is no text by itself."""
    trained = reader.trained
    tokenizer = trained.tokenizer
    if token == EOS:
        if trained.writes_records:
            return trained.record_separator or ""
        return tokenizer.token_texts()[EOS].decode()
    if token == UNK:
        return ""
    try:
        text = tokenizer.token_bytes[token].decode()
    except UnicodeDecodeError:
        return ""
    if tokenizer.separates_by_space and context.before.strip() and not context.before[-1].isspace():
        return " " + text
    return text.removeprefix(context.pending)
