"""How probable a model holds whole sequences, each by itself: what a ranking or a minimal pair is decided by."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from charlm.data.tokenizer import EOS, EOS_TEXT, UNK, Tokenizer
from charlm.data.utf8 import split_lines, strip_line_end
from charlm.data.windows import PADDING
from charlm.errors import CorpusError
from charlm.evaluation.adaptive.adaptation import target_log_probabilities
from charlm.model.language_model import LanguageModel

_TOKENS_AT_ONCE = 4096  # Their logits over a large vocabulary take a few hundred megabytes.


@dataclass(frozen=True)
class Sentence:
    """A sentence and how probable it is.

    Attributes:
        line: Its number in the file, from 1.
        text: As it was given.
        log_probability: Of all its tokens, in nats; with a model that reads both ways, the sum of both directions.
        log_probability_per_token: That over `tokens`.
        tokens: How many were predicted, <EOS> included where it ends a line.
        unknown: How many of them are <UNK>.
        explained: Each token with its probability, where that was asked for.
    """

    line: int
    text: str
    log_probability: float
    log_probability_per_token: float
    tokens: int
    unknown: int
    explained: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Sentences:
    """Sentences in the order of their lines, and what their scores belong to.

    Attributes:
        sentences: One for each line that is not empty.
        settings: Run, level, how a sentence was read, version and so on.
    """

    sentences: list[Sentence]
    settings: dict[str, Any]

    def ranked(self) -> list[Sentence]:
        """Return the sentences, the most probable first; equals in the order of their lines."""
        return sorted(self.sentences, key=lambda sentence: -sentence.log_probability)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON's types."""
        return asdict(self)


def read_sentences(file: str | Path) -> list[tuple[int, str]]:
    """Read sentences, one a line, in UTF-8; return each with the number of its line. Empty lines are skipped.

    Args:
        file: Its path; `-` is standard input.

    Raises:
        CorpusError: The file cannot be read, is not UTF-8, or holds no sentence.
    """
    name = "standard input" if str(file) == "-" else str(file)
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CorpusError(
            f"{name}: cannot be read: {error.strerror}; give a file with a sentence a line"
        ) from None
    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        value = f"0x{data[error.start]:02x}"
        raise CorpusError(
            f"{name}: byte {error.start} ({value}) is not UTF-8; save the file as UTF-8"
        ) from None
    found = [
        (number, strip_line_end(line))
        for number, line in enumerate(split_lines(text), 1)
        if line.strip()
    ]
    if not found:
        raise CorpusError(f"{name}: holds no sentence; write one a line")
    return found


def score_sentences(
    model: LanguageModel,
    tokenizer: Tokenizer,
    lines: Sequence[tuple[int, str]],
    *,
    ends: bool,
    explain: bool,
    device: torch.device,
) -> list[Sentence]:
    """Return each sentence with its log-probability, read by itself from the initial state.

    Args:
        model: On `device`.
        tokenizer: The model's; what it does not know is read as <UNK>.
        lines: The number of each line, and the sentence.
        ends: Whether <EOS> at its end is predicted too.
        explain: Tell each token's probability.
        device: Where to compute.

    Raises:
        CharlmError: Each token's probability is asked of a model that reads both ways, which gives it two.
    """
    sequences = [[*tokenizer.encode(text).tolist(), *([EOS] * ends)] for _, text in lines]
    totals = log_probabilities(model, sequences, device=device)
    return [
        Sentence(
            number,
            text,
            total,
            total / max(len(ids), 1),
            len(ids),
            ids.count(UNK),
            list(_explained(model, tokenizer, ids, device)) if explain else None,
        )
        for (number, text), ids, total in zip(lines, sequences, totals, strict=True)
    ]


def _explained(
    model: LanguageModel, tokenizer: Tokenizer, ids: list[int], device: torch.device
) -> Iterator[dict[str, Any]]:
    found = target_log_probabilities(
        model, np.array(ids), mode="stream", device=device, precision=torch.float32
    )
    for token, log_p in zip(ids, found.tolist(), strict=True):
        text = EOS_TEXT if token == EOS else tokenizer.token_bytes[token].decode(errors="replace")
        yield {
            "token": token,
            "text": text,
            "probability": math.exp(log_p),
            "log_probability": log_p,
        }


@torch.inference_mode()
def log_probabilities(
    model: LanguageModel,
    sequences: Sequence[Sequence[int]],
    *,
    device: torch.device,
    batch_size: int = 64,
) -> list[float]:
    """Return the natural logarithm of each sequence's probability, each token predicted once.

    Every sequence is read from the initial state with <EOS> as first input, as a record is. A `backward` model reads
    it reversed, from its last token to its first; <EOS> at its end ends it still. With `both`, the logarithms of the
    two directions are added up: a score to rank by, no probability.

    Args:
        model: On `device`; put into evaluation mode, and back.
        sequences: Ids, with <EOS> at the end where that the sequence ends there is to be predicted too.
        device: Where to compute.
        batch_size: Sequences read side by side, those of like length together.

    Returns:
        Nats, at most zero, in the order of `sequences`; zero for an empty one.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    found = [0.0] * len(sequences)
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        columns = _columns(model.direction, [sequences[number] for number in batch])
        sums = (
            _summed(model, columns, device).view(-1, len(batch)).sum(dim=0)
        )  # (directions, batch) → (batch,)
        for number, nats in zip(batch, sums.tolist(), strict=True):
            found[number] = nats
    model.train(was_training)
    return found


def _columns(direction: str, sequences: list[Sequence[int]]) -> list[Sequence[int]]:
    """Return what the model reads side by side; with `both`, every sequence and then every one reversed."""
    forward = sequences if direction != "backward" else []
    backward = [_reversed(ids) for ids in sequences] if direction != "forward" else []
    return [*forward, *backward]


def _reversed(ids: Sequence[int]) -> Sequence[int]:
    end = len(ids) - 1 if len(ids) and ids[-1] == EOS else len(ids)
    return [*ids[:end][::-1], *ids[end:]]


def _summed(model: LanguageModel, columns: list[Sequence[int]], device: torch.device) -> Tensor:
    """Return each column's log-probability, (columns,), in float64: a long sum of small terms loses digits in less."""
    inputs, targets = _padded(columns, device)
    sums = torch.zeros(len(columns), dtype=torch.float64, device=device)
    window, states = max(1, _TOKENS_AT_ONCE // len(columns)), None
    for first in range(0, len(targets), window):
        asked = targets[first : first + window]
        logits, states = model(inputs[first : first + window], states)
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(), asked.flatten(), ignore_index=PADDING, reduction="none"
        )
        sums -= losses.view_as(asked).double().sum(dim=0)
    return sums


def _padded(columns: list[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (time, columns), padded at the end."""
    targets = torch.full((max(map(len, columns)), len(columns)), PADDING)
    for number, ids in enumerate(columns):
        targets[: len(ids), number] = torch.tensor(ids, dtype=torch.int64)
    inputs = targets.roll(1, dims=0)
    inputs[:1] = EOS
    return inputs.masked_fill(targets == PADDING, EOS).to(device), targets.to(device)
