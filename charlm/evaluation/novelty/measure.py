"""Novelty of the texts that a trained model writes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from charlm.data.corpus import Text, read_text
from charlm.data.tokenizer import EOS
from charlm.data.utf8 import character_bounds, count_characters
from charlm.data.written_form import written_form, written_piece
from charlm.errors import OptionError, refuse_beside
from charlm.evaluation.novelty.compare import compare_with_training
from charlm.evaluation.novelty.results import Novelty
from charlm.evaluation.novelty.units import WordIds
from charlm.model_texts import encode, training_texts
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import sample as write_samples
from charlm.trained_model import TrainedModel, provenance, require_language_model

_DEFAULT_RECORDS = 1000
_DEFAULT_TOKENS = 20_000
_MAX_RECORD_TOKENS = 500


class _Sample(NamedTuple):
    """Texts to measure: records or texts as the model writes them, and facts about their origin."""

    texts: list[bytes]
    settings: dict[str, Any]


def measure_novelty(
    trained: TrainedModel,
    samples: Sequence[str] | None = None,
    *,
    path: str | Path | None = None,
    size: int | None = None,
    temperature: float = 1.0,
    seed: int = 1,
) -> Novelty:
    """Measure how much of sampled texts is in the training text, beside how much of held-out text.

    Args:
        trained: The model.
        samples: Texts that the model wrote.
        path: File of them, instead of `samples`: records as in the corpus of the run, or else one
            text. If neither is given, the model writes texts now.
        size: Number of records, or of tokens of one text, that the model writes.
        temperature: Temperature of these texts.
        seed: Seed of these texts.

    Raises:
        CharlmError: There is no text to measure, the corpus of the run has changed, the model was
            trained on pairs, or pydivsufsort is not installed.
    """
    require_language_model(trained)
    records = trained.writes_records
    parts = training_texts(trained)
    written = {
        part: written_form(parts[part], trained.tokenizer, records=records)
        for part in parts
        if part != "test"
    }
    if samples is None and path is None:
        sample = _write(trained, size, temperature, seed)
    else:
        sample = _given_sample(trained, samples, path)
    held_out = held_out_like(sample.texts, written.pop("valid", b""), records=records)
    novelty = compare_with_training(
        sample.texts,
        held_out,
        written["train"],
        records=records,
        words=_word_ids(trained, parts["train"]),
    )
    settings = sample.settings | {"held_out": "valid" if novelty.held_out else None}
    return replace(novelty, settings=provenance(trained) | settings | novelty.settings)


def held_out_like(sample: Sequence[bytes], written: bytes, *, records: bool) -> list[bytes]:
    """Return about as much held-out text as the sample has, or all of it.

    Args:
        sample: Records or texts.
        written: Held-out text in written form.
        records: Whether they are records: then the same number of records is taken, evenly spaced;
            otherwise the same number of characters, from the beginning.
    """
    if not records:
        bounds = character_bounds(written)
        length = sum(map(count_characters, sample))
        return [written[: bounds[min(length, len(bounds) - 1)]]]
    held_out = _split_records(written)
    count = sum(1 for record in sample if record)
    if count >= len(held_out):
        return held_out
    return [held_out[number * len(held_out) // count] for number in range(count)]


def _split_records(written: bytes) -> list[bytes]:
    """Return the records of a text in written form, which ends as each of its records does."""
    return [record for record in written.split(written[-1:] or b"\n") if record]


def _given_sample(
    trained: TrainedModel, samples: Sequence[str] | None, path: str | Path | None
) -> _Sample:
    """Return texts, or those of a file."""
    if samples is not None:
        refuse_beside("samples", path=path)
        given = [samples] if isinstance(samples, str) else samples
        texts = [written_piece(text.encode(), trained.tokenizer) for text in given]
        return _Sample(texts, {"sample": "given"})
    records = trained.writes_records
    text = read_text([str(path)], trained.config)
    written = written_form(text, trained.tokenizer, records=records)
    return _Sample(_split_records(written) if records else [written], {"sample": str(path)})


def _write(trained: TrainedModel, size: int | None, temperature: float, seed: int) -> _Sample:
    """Let the model write texts."""
    if size is not None and size < 1:
        raise OptionError("size", "must be at least 1", value=size)
    if trained.writes_records:
        unit, size = "records", size or _DEFAULT_RECORDS
        count, length = size, _MAX_RECORD_TOKENS
    else:
        unit, size = "tokens", size or _DEFAULT_TOKENS
        count, length = 1, size
    options = SampleOptions(
        stop=StopCondition(length=length),
        filters=Filters(temperature=temperature),
        count=count,
        seed=seed,
    )
    texts = [sample.text.encode() for sample in write_samples(trained, options)]
    origin = {"sample": f"{size} {unit} written now", "temperature": temperature, "seed": seed}
    return _Sample(texts, origin)


def _word_ids(trained: TrainedModel, training: Text) -> WordIds | None:
    """Return the words of a model of words; None for other models."""
    if trained.config.tokenizer.level != "word":
        return None
    ids = encode(trained, training).ids
    if not trained.tokenizer.separates_by_space:
        ids = ids[ids != EOS]
    return WordIds(ids, trained.tokenizer.encode)
