"""The score of a model on a text, with all that the score belongs to."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charlm.config.schema import Mode
from charlm.data.tokenizer import Ids
from charlm.data.tokens import Tokens, count_ids
from charlm.data.windows import (
    WARM_UP,
    Window,
    read_in_direction,
    scoring_record_windows,
    scoring_windows,
)
from charlm.errors import CorpusError
from charlm.evaluation.adaptive.adaptation import (
    AdaptationOptions,
    ScoringOptions,
    adapted_log_probabilities,
)
from charlm.evaluation.adaptive.temperature import fit_temperature
from charlm.model.language_model import LanguageModel
from charlm.training.loss import Score, predictions, score

_STREAMS_TO_FIT = 32  # A temperature needs no carried state to the last token.


@dataclass(frozen=True)
class Perplexity:
    """A score and what it belongs to.

    Attributes:
        loss_nats: Nats per predicted token, <EOS> included.
        perplexity: The exponential of it.
        bits_per_character: All nats / (ln 2 x characters of the original text, line ends included).
        bits_per_byte: The same by its UTF-8 bytes.
        accuracy: Share of tokens that were the model's most probable.
        unknown_share: Share of tokens that are <UNK>.
        unigram_perplexity: Of the frequencies of tokens in the training text, one added to each: what a model that has
            learnt no more than those would score.
        tokens: Predicted tokens, each once.
        characters: Of the original text.
        bytes: Of the original text.
        seconds: That scoring took.
        settings: Split or text, tokenizer level, mode, how the state was carried, seed, version and so on.
        adapted: The score of the model and what it was helped by; all else is of the model as it was trained.
        baselines: What models without a network score on the same text.
    """

    loss_nats: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float
    accuracy: float
    unknown_share: float
    unigram_perplexity: float
    tokens: int
    characters: int
    bytes: int
    seconds: float
    settings: dict[str, Any]
    adapted: "Adapted | None" = None
    baselines: list[dict[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the score as JSON's types."""
        return asdict(self)


@dataclass(frozen=True)
class Adapted:
    """A score of a model that adapts while it reads, or is mixed with others.

    Attributes:
        loss_nats: As in `Perplexity`, like the next three.
        perplexity: The exponential of it.
        bits_per_character: By characters.
        bits_per_byte: By bytes.
        seconds: That fitting and scoring took.
        settings: What was fitted, on what, and the weights of what was mixed.
    """

    loss_nats: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float
    seconds: float
    settings: dict[str, Any]


def measure_adapted(
    model: LanguageModel,
    tokens: Tokens,
    methods: AdaptationOptions,
    reading: ScoringOptions,
    *,
    train: Tokens,
    valid: Tokens,
    clock: Callable[[], float],
) -> Adapted:
    """Score a text by a model that adapts.

    Args:
        model: On the device of `reading`.
        tokens: The text.
        methods: What the model is helped by.
        reading: How it reads.
        train: The run's training text: gradients and n-grams are counted there.
        valid: The run's validation text: all that is fitted is fitted there.
        clock: Seconds, such as `time.perf_counter`.

    Raises:
        CharlmError: A method is not defined for this model, or a text has no token.
    """
    _check_not_empty(tokens)
    began = clock()
    log_p, settings = adapted_log_probabilities(
        model, tokens.ids, methods, reading, train_ids=train.ids, valid_ids=valid.ids
    )
    found = Score(-float(log_p.sum()), len(log_p), 0)
    counts = tokens.counts
    return Adapted(
        found.loss_nats,
        found.perplexity,
        found.bits_per(counts.characters),
        found.bits_per(counts.bytes),
        round(clock() - began, 3),
        settings,
    )


def measure(
    model: LanguageModel,
    tokens: Tokens,
    *,
    mode: Mode,
    streams: int,
    device: torch.device,
    precision: torch.dtype,
    temperature: float = 1.0,
) -> Score:
    """Score a text.

    Args:
        model: On `device`.
        tokens: The text.
        mode: `stream`: the state is carried through the whole text; `records`: each record starts from the zero state.
        streams: In stream mode, pieces read side by side; 1 is exact, more are faster.
        device: Where to compute.
        precision: What matrix products are computed in.
        temperature: What logits are divided by.

    Raises:
        CorpusError: The text has no token.
    """
    windows = _windows(model, tokens, mode=mode, streams=streams)
    return score(model, windows, device=device, precision=precision, temperature=temperature)


def fitted_temperature(
    model: LanguageModel,
    tokens: Tokens,
    *,
    mode: Mode,
    device: torch.device,
    precision: torch.dtype,
) -> float:
    """Return the temperature at which the model predicts a text best; arguments as for `measure`."""

    def read() -> Iterator[tuple[Tensor, Tensor]]:
        windows = _windows(model, tokens, mode=mode, streams=_STREAMS_TO_FIT)
        return predictions(model, windows, device=device, precision=precision)

    return fit_temperature(read)


def _windows(model: LanguageModel, tokens: Tokens, *, mode: Mode, streams: int) -> Iterator[Window]:
    _check_not_empty(tokens)

    def read(ids: Ids) -> Iterator[Window]:
        return (
            scoring_record_windows(ids)
            if mode == "records"
            else scoring_windows(ids, streams=streams, warm_up=WARM_UP)
        )

    return read_in_direction(model.direction, tokens.ids, mode=mode, read=read)


def _check_not_empty(tokens: Tokens) -> None:
    if tokens.counts.tokens == 0:
        raise CorpusError("the text to score has no token; give one that is not empty")


def unigram_loss_nats(train_counts: list[int], tokens: Tokens) -> float:
    """Return nats per token of the training text's frequencies, one added to each so that none is zero."""
    counts = np.array(train_counts, dtype=np.float64) + 1
    found = count_ids(tokens.ids, len(counts))
    return float(-(found * np.log(counts / counts.sum())).sum() / max(len(tokens.ids), 1))
