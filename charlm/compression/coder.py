"""Arithmetic coding of tokens with the probabilities of a model.

The range coder is constriction's (Bamler 2022, arXiv:2201.01741) at a precision of 24 bits. It
spends -log2 p bits on a token of probability p, so that the size of a coded text is the model's
cross-entropy (Shannon 1948, section 9), apart from rounding.
"""

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.compression.literals import Alphabet
from charlm.data.tokenizer import EOS, Ids
from charlm.errors import CharlmError, CheckpointError
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States, run_stepwise
from charlm.version import install_hint

Report = Callable[[int, int], None]  # Number of tokens done, and of all tokens.
Probabilities = npt.NDArray[np.float64]
# Step and probabilities of each stream's next token, (streams, vocabulary) → these tokens,
# (streams,). In the last step there may be fewer streams.
CodeStep = Callable[[int, Probabilities], Ids]

_PROBE_STEPS = 8  # Tokens of each stream that the checksum of the arithmetic covers.


class InvalidWordsError(Exception):
    """No encoder writes such words."""


def silent(done: int, total: int) -> None:
    """Report nothing."""


class TokenPredictor:
    """Predicts the next token of several streams in a way that gives the same bits every time.

    It runs on the CPU in fp32, one token of each stream per step.

    Attributes:
        model: Copy of the forward or backward network.
        direction: `forward` or `backward`.
        alphabet: Tokens of the model.
    """

    def __init__(self, model: LanguageModel, alphabet: Alphabet) -> None:
        """Copy a model; of one that reads in both directions, the forward network."""
        network = model.split_directions()[0]
        self.model = copy.deepcopy(network).to("cpu", torch.float32).eval()
        self.direction = "backward" if model.direction == "backward" else "forward"
        self.alphabet = alphabet

    def run(
        self, num_tokens: int, num_streams: int, code_step: CodeStep, report: Report = silent
    ) -> Ids:
        """Predict a text in contiguous streams side by side and return it, (tokens,).

        Args:
            num_tokens: Number of tokens of the text.
            num_streams: Number of streams; if their lengths differ, the first are longer by one.
            code_step: Function that encodes or decodes the next token of each stream.
            report: Function that is called after each step.
        """
        initial = states = self.model.initial_states(num_streams)
        last = np.full(num_streams, EOS, dtype=np.int64)
        steps = []
        for step in range(-(-num_tokens // num_streams)):
            active = min(num_streams, num_tokens - step * num_streams)
            # Not the fused kernel, which packs its weights anew for every window of one token.
            logits, states = self.model(torch.from_numpy(last)[None], states, run=run_stepwise)
            last = np.full(num_streams, EOS, dtype=np.int64)
            last[:active] = code_step(step, _probabilities(logits[0])[:active])
            steps.append(last[:active])
            if self.alphabet.mode == "records" and (last == EOS).any():
                states = _reset(torch.from_numpy(last == EOS)[:, None], initial, states)
            report(step * num_streams + active, num_tokens)
        return _join_streams(steps)


def encode(predictor: TokenPredictor, ids: Ids, num_streams: int, report: Report = silent) -> bytes:
    """Return the words of the range coder for a text in reading order, (tokens,).

    Raises:
        CharlmError: constriction is not installed.
        CheckpointError: The probabilities are not finite.
    """
    encoder, categorical = _range_coder("RangeEncoder")
    lengths = [
        len(ids) // num_streams + (number < len(ids) % num_streams) for number in range(num_streams)
    ]
    starts = np.cumsum([0, *lengths[:-1]])

    def code_step(step: int, probabilities: Probabilities) -> Ids:
        tokens: Ids = ids[starts[: len(probabilities)] + step]
        encoder.encode(tokens.astype(np.int32), categorical, probabilities)
        return tokens

    predictor.run(len(ids), num_streams, code_step, report)
    words: bytes = encoder.get_compressed().astype("<u4").tobytes()
    return words


def decode(
    predictor: TokenPredictor,
    words: bytes,
    num_tokens: int,
    num_streams: int,
    report: Report = silent,
) -> Ids:
    """Return the text, in reading order, of which `encode` returned the words.

    Raises:
        InvalidWordsError: No encoder writes such words.
        CharlmError: constriction is not installed.
        CheckpointError: The probabilities are not finite.
    """
    values = np.frombuffer(words, dtype="<u4").astype(np.uint32)
    decoder, categorical = _range_coder("RangeDecoder", values)

    def code_step(_: int, probabilities: Probabilities) -> Ids:
        try:
            tokens: Ids = decoder.decode(categorical, probabilities)
        except AssertionError:
            raise InvalidWordsError from None
        return tokens

    return predictor.run(num_tokens, num_streams, code_step, report)


def arithmetic_checksum(predictor: TokenPredictor, num_streams: int) -> bytes:
    """Return a checksum of what this machine computes and codes for a few tokens, 4 bytes.

    Decoding must compute the same bits as encoding, in the same shapes.
    """
    vocabulary_size = predictor.alphabet.tokenizer.vocabulary_size
    ids = np.arange(_PROBE_STEPS * num_streams) * 31 % vocabulary_size
    digest = hashlib.sha256()
    encoder, categorical = _range_coder("RangeEncoder")

    def code_step(step: int, probabilities: Probabilities) -> Ids:
        digest.update(probabilities.tobytes())
        tokens = ids[step * num_streams : (step + 1) * num_streams]
        encoder.encode(tokens.astype(np.int32), categorical, probabilities)
        return tokens

    predictor.run(len(ids), num_streams, code_step)
    digest.update(encoder.get_compressed().tobytes())
    return digest.digest()[:4]


@contextmanager
def deterministic_arithmetic() -> Iterator[None]:
    """Let torch compute the same bits whatever the process did before, and restore its settings.

    One thread, fp32 throughout, denormal numbers flushed to zero.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    tiny = torch.tensor([torch.finfo(torch.float32).tiny])
    flushes = float(tiny / 2) == 0.0  # torch has no function that returns this setting.
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


def _range_coder(kind: str, *words: npt.NDArray[np.uint32]) -> tuple[Any, Any]:
    """Return constriction's range encoder, or decoder of some words, and its entropy model."""
    try:
        stream = import_module("constriction").stream
    except ImportError:
        raise CharlmError(
            f"compressing needs constriction, which is not installed: {install_hint('eval')}"
        ) from None
    return getattr(stream.queue, kind)(*words), stream.model.Categorical(perfect=False)


def _probabilities(logits: Tensor) -> Probabilities:
    probabilities: Probabilities = torch.softmax(logits.double(), dim=-1).numpy()
    if not np.isfinite(probabilities).all():
        raise CheckpointError(
            "the model's probabilities are not all finite numbers: the training diverged; train "
            "the model again"
        )
    return probabilities


def _reset(ended: Tensor, initial: States, states: States) -> States:
    """Return the states, replaced by the initial ones in streams whose record ended, (batch, 1)."""
    return tuple(
        tuple(torch.where(ended, first, part) for first, part in zip(firsts, parts, strict=True))
        for firsts, parts in zip(initial, states, strict=True)
    )


def _join_streams(steps: Sequence[Ids]) -> Ids:
    """Return the text of streams, given the tokens of each step; the last step may be shorter."""
    if not steps:
        return np.zeros(0, dtype=np.int64)
    rows = np.full((len(steps), len(steps[0])), -1, dtype=np.int64)
    for row, tokens in zip(rows, steps, strict=True):
        row[: len(tokens)] = tokens
    joined: Ids = rows.T.ravel()
    return joined[joined >= 0]
