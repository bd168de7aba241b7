"""The arithmetic coder: probabilities of the model, and symbols to words and back."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from charlm.compression.literals import Alphabet
from charlm.data.tokenizer import EOS, Ids
from charlm.errors import CharlmError, CheckpointError
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import run_stepwise

Report = Callable[[int, int], None]  # Tokens done, of how many.

# A stream that begins at the zero state costs more than one carried on: 13 bits at the level of characters.
_TOKENS_PER_STREAM, _MOST_STREAMS = 4096, 256
_PROBE_STEPS = 8  # Tokens of each stream that the checksum of the arithmetic is taken over.
Probabilities = npt.NDArray[np.float64]


def silent(done: int, total: int) -> None:
    """Report nothing."""


class _Network:
    """A model as it codes: on the processor, in fp32, one token of each stream a step."""

    def __init__(self, model: LanguageModel, alphabet: Alphabet) -> None:
        """Copy a model to where it codes."""
        self.model = copy.deepcopy(model.split_directions()[0]).to("cpu", torch.float32).eval()
        self.direction = "backward" if model.direction == "backward" else "forward"
        self.alphabet = alphabet

    def run(
        self,
        tokens: int,
        streams: int,
        turn: Callable[[int, Probabilities], Ids],
        report: Report = silent,
    ) -> Ids:
        """Predict a text in so many contiguous pieces side by side, asking `turn` for what there was.

        Args:
            tokens: Of the text.
            streams: Pieces, the first of which are longer by one where their lengths differ.
            turn: Given the number of the step and the probabilities of each stream's next token, (streams, vocabulary),
                returns these tokens, (streams,). In the last step there may be fewer streams.
            report: Told how far it is.

        Returns:
            The text, (tokens,).
        """
        initial = states = self.model.initial_states(streams)
        row, rows = np.full(streams, EOS, dtype=np.int64), []
        for step in range(-(-tokens // streams)):
            present = min(streams, tokens - step * streams)
            # Not the fused kernel: for a token at a time it packs its weights anew each time.
            logits, states = self.model(torch.from_numpy(row)[None], states, run=run_stepwise)
            row = np.full(streams, EOS, dtype=np.int64)
            row[:present] = turn(step, _probabilities(logits[0])[:present])
            rows.append(row[:present])
            if self.alphabet.mode == "records" and (row == EOS).any():
                states = _begun_anew(torch.from_numpy(row == EOS)[:, None], initial, states)
            report(step * streams + present, tokens)
        return _joined(rows)


def _probabilities(logits: torch.Tensor) -> Probabilities:
    found: Probabilities = torch.softmax(logits.double(), dim=-1).numpy()
    if not np.isfinite(found).all():
        raise CheckpointError(
            "the model's probabilities are not all finite numbers: it has diverged; train it again"
        )
    return found


def _begun_anew(ended: torch.Tensor, initial: Any, states: Any) -> Any:
    """Return the states, the initial ones where a record has ended."""
    return tuple(
        tuple(torch.where(ended, first, part) for first, part in zip(firsts, parts, strict=True))
        for firsts, parts in zip(initial, states, strict=True)
    )


def _encode(
    coder: Any, network: _Network, ids: Ids, streams: int, report: Report = silent
) -> bytes:
    """Return the words of the coder for a text."""
    encoder, family = coder.queue.RangeEncoder(), coder.model.Categorical(perfect=False)
    lengths = [len(ids) // streams + (number < len(ids) % streams) for number in range(streams)]
    starts = np.cumsum([0, *lengths[:-1]])

    def turn(step: int, probabilities: Probabilities) -> Ids:
        tokens: Ids = ids[starts[: len(probabilities)] + step]
        encoder.encode(tokens.astype(np.int32), family, probabilities)
        return tokens

    network.run(len(ids), streams, turn, report)
    words: bytes = encoder.get_compressed().astype("<u4").tobytes()
    return words


def _coder() -> Any:
    try:
        return import_module("constriction").stream
    except ImportError:
        raise CharlmError(
            "compressing needs constriction, which is not installed: pip install 'charlm[eval]'"
        ) from None


def _joined(rows: Sequence[Ids]) -> Ids:
    """Return the text whose pieces are the columns of rows; the last row may be short."""
    if not rows:
        return np.zeros(0, dtype=np.int64)
    columns = np.full((len(rows), len(rows[0])), -1, dtype=np.int64)
    for row, tokens in zip(columns, rows, strict=True):
        row[: len(tokens)] = tokens
    joined: Ids = columns.T.ravel()
    return joined[joined >= 0]


@contextmanager
def _same_arithmetic() -> Iterator[None]:
    """Have torch compute the same bits whatever the process did before: one thread, fp32 throughout, no denormals."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    tiny = torch.tensor([torch.finfo(torch.float32).tiny])
    flushes = float(tiny / 2) == 0.0  # torch does not say.
    try:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        torch.set_flush_denormal(True)
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        torch.set_flush_denormal(flushes)
