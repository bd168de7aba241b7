"""Perplexity and bits per character of a model on a text, with all that the score depends on."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from charlm.data.cards import Part
from charlm.data.spelling import Restoration
from charlm.data.tokenizer import Ids
from charlm.data.tokens import Tokens
from charlm.data.windows.scoring import WARM_UP, windows_to_score
from charlm.errors import CorpusError
from charlm.evaluation.adaptive.adaptation import adapted_log_probabilities, check_adaptation
from charlm.evaluation.adaptive.temperature import fit_temperature
from charlm.evaluation.baselines import Baseline, score_baselines, unigram_loss_nats
from charlm.evaluation.options import ScoringOptions
from charlm.evaluation.overlap import SAME_TEXT, shared_fraction
from charlm.evaluation.static_model import StaticModel, require_tokens
from charlm.model_texts import (
    OpenText,
    corpus_part,
    encode,
    open_text,
    original_bytes,
    restoration_to_score,
    share_in_training,
    training_texts,
)
from charlm.storage.results import Result
from charlm.storage.tables import format_number, format_settings
from charlm.trained_model import TrainedModel, provenance, with_int8
from charlm.training.devices import choose_precision
from charlm.training.loss import Score, predict_windows, score

# Scores that are None where the cost of what the tokens leave out cannot be computed.
_MAY_BE_UNKNOWN = ("bits_per_character", "bits_per_byte", "restoration_nats")
_STREAMS_TO_FIT = 32  # A temperature does not depend on a state carried to the last token.


@dataclass(frozen=True)
class VariantScore(Result):
    """The score of a variant of a model.

    Attributes:
        loss_nats: Nats per predicted token, <EOS> included.
        perplexity: exp(loss_nats).
        bits_per_character: As of `Perplexity`.
        bits_per_byte: As of `Perplexity`.
        seconds: Time of making the variant and of scoring.
    """

    loss_nats: float
    perplexity: float
    bits_per_character: float | None
    bits_per_byte: float | None
    seconds: float


@dataclass(frozen=True)
class Adapted(VariantScore):
    """The score of a model that adapts while it reads, or is interpolated with other predictors.

    Attributes:
        settings: Fitted settings, the text they were fitted on, and weights of the interpolation.
    """

    settings: dict[str, Any]


@dataclass(frozen=True)
class Int8Score(VariantScore):
    """The score of a model that computes its products in int8.

    Attributes:
        difference_nats: `loss_nats` minus that of fp32 on the same text.
    """

    difference_nats: float


@dataclass(frozen=True)
class Perplexity(Result):
    """The score of a model on a text.

    Attributes:
        loss_nats: Nats per predicted token, <EOS> included.
        perplexity: exp(loss_nats).
        unknown_share: Fraction of tokens that are <UNK>.
        bits_per_character: Total nats / (ln 2 x characters of the original text), line ends
            included. The total includes `restoration_nats`; None if they are None.
        bits_per_byte: Total nats / (ln 2 x UTF-8 bytes of the original text), or None.
        restoration_nats: Nats of what the tokens leave out: the spelling of each <UNK>, capital
            letters and spaces; None if they cannot be computed.
        token_bits_per_character: Bits of the tokens alone / characters of the original text. It is
            too small where the tokens do not represent the whole text.
        accuracy: Fraction of tokens that the model gave the highest probability.
        unigram_perplexity: Perplexity of the token frequencies of the training text, with one
            added to each count: the score of a model that learned nothing else.
        tokens: Number of predicted tokens; each is predicted once.
        characters: Number of characters of the original text.
        bytes: Number of UTF-8 bytes of the original text.
        seconds: Time of scoring.
        settings: Run, text or split, tokenizer level, mode, state handling, seed, version, and the
            other facts that the score depends on.
        adapted: Score of the model that adapts; all other fields concern the model as it was
            trained. None if no adaptation was asked for.
        baselines: Scores of methods without a network on the same text, or None.
        int8: Score of the same model with its products in int8, or None.
    """

    loss_nats: float
    perplexity: float
    unknown_share: float
    bits_per_character: float | None
    bits_per_byte: float | None
    restoration_nats: float | None = field(default=0.0, kw_only=True)
    token_bits_per_character: float | None = field(default=None, kw_only=True)
    accuracy: float
    unigram_perplexity: float
    tokens: int
    characters: int
    bytes: int
    seconds: float
    settings: dict[str, Any]
    adapted: Adapted | None = None
    baselines: list[Baseline] | None = None
    int8: Int8Score | None = None

    def lines(self) -> Iterator[str]:
        """Yield a line for each score, with the settings, and a table of the baselines."""
        yield from self._scores_table()
        if self.int8:
            yield f"{'int8 minus fp32':<24} {self.int8.difference_nats:>+14.5f} nats per token"
        yield format_settings(self.settings)
        if self.adapted:
            yield f"adapted: {format_settings(self.adapted.settings)}"
        fits = {"temperature": self.settings, "adaptation": self.adapted and self.adapted.settings}
        for name, settings in fits.items():
            if settings and settings.get("fitted_on_the_scored_text"):
                yield f"{name} fitted on the scored text: the score is better than on other texts"
        if self.baselines:
            yield from _baselines_table(self.baselines)

    def _scores_table(self) -> Iterator[str]:
        """Yield a line for each score, with a column for each variant of the model."""
        others = {
            name: other.to_json()
            for name, other in (("adapted", self.adapted), ("int8", self.int8))
            if other is not None
        }
        if others:
            names = ["static" if "adapted" in others else "fp32", *others]
            yield f"{'':<24} " + " ".join(f"{name:>14}" for name in names)
        hidden = (
            () if self.restoration_nats != 0 else ("restoration_nats", "token_bits_per_character")
        )
        for name, value in self.to_json().items():
            is_shown = isinstance(value, int | float) or name in _MAY_BE_UNKNOWN
            if is_shown and name not in hidden:
                cells = [value, *(other[name] for other in others.values() if name in other)]
                yield f"{name:<24} " + " ".join(f"{format_number(cell):>14}" for cell in cells)


def measure_perplexity(trained: TrainedModel, options: ScoringOptions) -> Perplexity:
    """Score a trained model on a text: each token is predicted once, with the state carried.

    Raises:
        CharlmError: The text cannot be read or has no token, there is nothing to fit on, or an
            option is not defined for this model.
    """
    check_adaptation(trained.model, options.adaptation, trained.mode)
    with open_text(trained, options.text, options.paths, options.split) as text:
        return _measure(trained, text, options)


def _measure(trained: TrainedModel, text: OpenText, options: ScoringOptions) -> Perplexity:
    source, tokens, name = text
    restoration = restoration_to_score(trained, source, tokens)
    started = time.perf_counter()
    static = _static_model(trained, options)
    result = score_text(static, tokens.ids, streams=options.streams)
    seconds = round(time.perf_counter() - started, 3)
    unigram_loss = unigram_loss_nats(trained.origin.corpus["train_token_counts"], tokens.ids)
    return Perplexity(
        loss_nats=result.loss_nats,
        perplexity=result.perplexity,
        unknown_share=tokens.counts.unknown_share,
        bits_per_character=restoration.bits_per(tokens.counts.characters, result.nats),
        bits_per_byte=restoration.bits_per(tokens.counts.bytes, result.nats),
        restoration_nats=restoration.nats,
        token_bits_per_character=result.bits_per(tokens.counts.characters),
        accuracy=result.correct / result.tokens,
        unigram_perplexity=math.exp(unigram_loss),
        tokens=result.tokens,
        characters=tokens.counts.characters,
        bytes=tokens.counts.bytes,
        seconds=seconds,
        settings=provenance(trained)
        | {"text": name}
        | _settings(static, options)
        | _temperature_fit(trained, tokens.ids, options)
        | _records_in_training(trained, options),
        adapted=_adapted(trained, static, tokens, restoration, options),
        baselines=_baselines(trained, text, restoration) if options.baselines else None,
        int8=_int8_score(trained, static, tokens, restoration, options, result),
    )


def score_text(static: StaticModel, ids: Ids, *, streams: int = 1) -> Score:
    """Score a text.

    Args:
        static: The model, with any direction.
        ids: Text in its own order, (tokens,).
        streams: Number of pieces read side by side in stream mode; one is exact, more are faster.

    Raises:
        CorpusError: The text has no token.
    """
    require_tokens(ids)
    return score(
        static.model,
        windows_to_score(ids, mode=static.mode, direction=static.model.direction, streams=streams),
        device=static.device,
        precision=static.precision,
        temperature=static.temperature,
    )


def _static_model(trained: TrainedModel, options: ScoringOptions) -> StaticModel:
    static = StaticModel(
        trained.model,
        trained.mode,
        trained.device,
        precision=choose_precision(options.precision, trained.device),
    )
    if options.temperature == "fit":
        return replace(static, temperature=_fit_temperature(static, _ids_to_fit_on(trained)))
    return replace(static, temperature=options.temperature)


def _ids_to_fit_on(trained: TrainedModel) -> Ids:
    """Return the validation split, on which temperature and adaptation are fitted, (tokens,).

    Raises:
        CorpusError: The corpus has no such part.
    """
    parts = training_texts(trained)
    if "valid" not in parts:
        raise CorpusError(
            f"{trained.folder}: the corpus has no validation split to fit on; score without "
            "fitting, or train with corpus.valid_share above 0"
        )
    return encode(trained, parts["valid"]).ids


def _fit_temperature(static: StaticModel, ids: Ids) -> float:
    """Return the temperature at which a model predicts a text best."""
    require_tokens(ids)
    return fit_temperature(
        lambda: predict_windows(
            static.model,
            windows_to_score(
                ids,
                mode=static.mode,
                direction=static.model.direction,
                streams=_STREAMS_TO_FIT,
            ),
            device=static.device,
            precision=static.precision,
        )
    )


def _settings(static: StaticModel, options: ScoringOptions) -> dict[str, Any]:
    """Return the facts that a score depends on, in addition to those of the trained model."""
    if static.mode == "records":
        state = "zero at each record"
    elif options.streams == 1:
        state = "carried through the whole text"
    else:
        state = f"{options.streams} streams, each warmed up on {WARM_UP} tokens"
    return {
        "state": state,
        "temperature": round(static.temperature, 4),
        "precision": options.precision,
    }


def _temperature_fit(trained: TrainedModel, ids: Ids, options: ScoringOptions) -> dict[str, Any]:
    """Return the text that the temperature was fitted on, if it was fitted."""
    if options.temperature != "fit":
        return {}
    return {"temperature_fitted_on": "valid"} | _overlap(trained, ids, ["valid"])


def _overlap(trained: TrainedModel, ids: Ids, parts: Sequence[Part]) -> dict[str, Any]:
    """Return how much of the scored text is in the texts that something was fitted on."""
    shared = {
        f"shared_with_{part}": shared_fraction(
            ids, encode(trained, corpus_part(trained, part)).ids, mode=trained.mode
        )
        for part in parts
    }
    is_same = max(shared.values()) >= SAME_TEXT
    rounded = {name: round(fraction, 4) for name, fraction in shared.items()}
    return {"fitted_on_the_scored_text": is_same} | rounded


def _records_in_training(trained: TrainedModel, options: ScoringOptions) -> dict[str, float]:
    """Return the fraction of the scored records that are in the training text, where it is known.

    It is known for the held-out parts of the run's own corpus.
    """
    if options.text is not None or options.paths or trained.mode != "records":
        return {}
    share = share_in_training(trained, options.split)
    return {} if share is None else {"records_in_training": round(share, 4)}


def _adapted(
    trained: TrainedModel,
    static: StaticModel,
    tokens: Tokens,
    restoration: Restoration,
    options: ScoringOptions,
) -> Adapted | None:
    if options.adaptation.is_static:
        return None
    train_ids = encode(trained, corpus_part(trained, "train")).ids
    valid_ids = _ids_to_fit_on(trained)
    started = time.perf_counter()
    log_p, settings = adapted_log_probabilities(
        static, tokens.ids, options.adaptation, train_ids=train_ids, valid_ids=valid_ids
    )
    total = Score(-float(log_p.sum()), len(log_p), 0)
    fields = _variant_fields(total, tokens, restoration, started)
    # Gradients and n-grams are counted on the training text, all settings are fitted on the other.
    uses_train = options.dynamic or options.mix_ngram is not None
    parts: list[Part] = ["valid", "train"] if uses_train else ["valid"]
    return Adapted(**fields, settings=settings | _overlap(trained, tokens.ids, parts))


def _int8_score(
    trained: TrainedModel,
    static: StaticModel,
    tokens: Tokens,
    restoration: Restoration,
    options: ScoringOptions,
    fp32: Score,
) -> Int8Score | None:
    if not options.int8:
        return None
    started = time.perf_counter()
    model = with_int8(trained).model
    result = score_text(replace(static, model=model), tokens.ids, streams=options.streams)
    return Int8Score(
        **_variant_fields(result, tokens, restoration, started),
        difference_nats=result.loss_nats - fp32.loss_nats,
    )


def _variant_fields(
    result: Score, tokens: Tokens, restoration: Restoration, started: float
) -> dict[str, Any]:
    """Return the fields of `VariantScore`; making the variant began at the time `started`."""
    return {
        "loss_nats": result.loss_nats,
        "perplexity": result.perplexity,
        "bits_per_character": restoration.bits_per(tokens.counts.characters, result.nats),
        "bits_per_byte": restoration.bits_per(tokens.counts.bytes, result.nats),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _baselines(trained: TrainedModel, text: OpenText, restoration: Restoration) -> list[Baseline]:
    train = corpus_part(trained, "train")
    return score_baselines(
        encode(trained, train).ids,
        text.tokens.ids,
        vocabulary_size=trained.tokenizer.vocabulary_size,
        records=trained.writes_records,
        text_bytes=original_bytes(text.source),
        train_bytes=original_bytes(train),
        restoration=restoration,
    )


def _baselines_table(baselines: list[Baseline]) -> Iterator[str]:
    columns = ("loss_nats", "perplexity", "bits_per_character", "bits_per_byte")
    width = max(len(baseline.name) for baseline in baselines)
    yield f"\n{'baselines':<{width}}" + "".join(f" {column:>18}" for column in columns)
    for baseline in baselines:
        cells = [format_number(getattr(baseline, column)) for column in columns]
        mark = " *" if baseline.fitted_on_the_scored_text else ""
        yield f"{baseline.name:<{width}}" + "".join(f" {cell:>18}" for cell in cells) + mark
    if any(baseline.fitted_on_the_scored_text for baseline in baselines):
        yield "* learned from the scored text, so the score says nothing about other texts"
