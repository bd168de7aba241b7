"""Measurements of a trained model that need its samples or its coder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from charlm.data.corpus import read_text
from charlm.data.tokenizer import EOS
from charlm.data.written_form import written_form
from charlm.evaluation.novelty import (
    Novelty,
    WordIds,
    compare_with_training,
    held_out_like,
    split_records,
)
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.trained_model import TrainedModel, encode, provenance, training_texts


class Scorer:
    """A trained model that is asked how new its texts are, and to compress."""

    def __init__(self, trained: TrainedModel) -> None:
        """Hold the trained model."""
        self.trained = trained

    def novelty(
        self,
        samples: Sequence[str] | None = None,
        *,
        path: str | Path | None = None,
        size: int | None = None,
        temperature: float = 1.0,
        seed: int = 1,
    ) -> Novelty:
        """Measure how new texts are: what of them is in the training text, beside what of held-out text is.

        Args:
            samples: Texts that the model wrote.
            path: Or a file of them: a record a line in records mode, else one text.
            size: With neither, how much the run writes now: records, or tokens of one text.
            temperature: Of what is written now.
            seed: Of it.

        Raises:
            CharlmError: There is no text to measure, the run's corpus has changed, or pydivsufsort is not installed.
        """
        records = self.trained.writes_records
        parts = training_texts(self.trained)
        own = {
            part: written_form(parts[part], self.trained.tokenizer, records=records)
            for part in parts
            if part != "test"
        }
        texts, made = self._samples_to_measure(samples, path, size, temperature, seed)
        words = None
        if self.trained.config.tokenizer.level == "word":
            ids = encode(self.trained, parts["train"]).ids
            words = WordIds(
                ids if self.trained.tokenizer.separates_by_space else ids[ids != EOS],
                self.trained.tokenizer.encode,
            )
        held_out = held_out_like(texts, own.pop("valid", b""), records=records)
        found = compare_with_training(texts, held_out, own["train"], records=records, words=words)
        held_out_part = {"held_out": "valid" if found.held_out else None}
        return replace(
            found, settings=provenance(self.trained) | made | held_out_part | found.settings
        )

    def _samples_to_measure(
        self,
        samples: Sequence[str] | None,
        path: str | Path | None,
        size: int | None,
        temperature: float,
        seed: int,
    ) -> tuple[list[bytes], dict[str, Any]]:
        """Return texts, and how they came to be; arguments as for `novelty`."""
        records = self.trained.writes_records
        if path is not None:
            file = read_text([str(path)], self.trained.config)
            written = written_form(file, self.trained.tokenizer, records=records)
            return split_records(written) if records else [written], {"sample": str(path)}
        if samples is not None:
            return [text.encode() for text in samples], {"sample": "given"}
        size = size or (1000 if records else 20_000)
        count, length = (size, 500) if records else (1, size)
        made = {
            "sample": f"{size} {'records' if records else 'tokens'} written now",
            "temperature": temperature,
            "seed": seed,
        }
        written_now = sample(
            self.trained,
            SampleOptions(
                stop=StopCondition(length=length),
                filters=Filters(temperature=temperature),
                count=count,
                seed=seed,
            ),
        )
        return [one.text.encode() for one in written_now], made
