"""samples.jsonl of a run folder: a sample of each evaluation of its training."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from charlm.errors import CheckpointError
from charlm.runs.experiment import Experiment, Sampled
from charlm.runs.files import CONTINUE, SAMPLES, write_file
from charlm.runs.verify import PARSE_ERRORS, SampleFacts, validate_facts
from charlm.storage.atomic import append_line
from charlm.storage.untrusted import parse_json

MAX_SAMPLES = 200  # Samples that a run folder keeps; those of later evaluations are not kept.


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of samples.jsonl, without damaged ones: `step` and `text`."""
    path = folder / SAMPLES
    samples = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        with suppress(*PARSE_ERRORS):
            samples.append(validate_facts(parse_json(line), SampleFacts))
    return samples[:MAX_SAMPLES]


def append_sample(experiment: Experiment, event: Sampled) -> None:
    """Append a sample to samples.jsonl."""
    line = json.dumps({"step": event.step, "text": event.text})
    append_line(experiment.folder / SAMPLES, line, error_type=CheckpointError, remedy=CONTINUE)


def truncate_samples(experiment: Experiment) -> int:
    """Remove the samples of steps that training is about to repeat; return the number kept."""
    samples = read_samples(experiment.folder)
    kept = [line for line in samples if line["step"] <= experiment.state.step]
    if len(kept) < len(samples):
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in kept)
        write_file(experiment.folder / SAMPLES, lines)
    return len(kept)
