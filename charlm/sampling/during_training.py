"""A sample at each evaluation of a training, kept in samples.jsonl of the run folder."""

import json
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from charlm.errors import CheckpointError
from charlm.runs.experiment import Evaluated, Event, Events, Experiment, Halved, Sampled
from charlm.runs.files import CONTINUE, SAMPLES, write_file
from charlm.runs.verify import PARSE_ERRORS, SampleFacts, validate_facts
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.storage.atomic import append_line
from charlm.storage.untrusted import parse_json
from charlm.trained_model import of_experiment

# Tokens of a few hundred characters. Records are short, so several are sampled.
_LENGTH = {"char": 300, "byte": 300, "word": 60, "bpe": 100}
_RECORDS = 10
_SEED = 1  # Always the same, so that the samples of a training can be compared.
_TEMPERATURE = 0.8
_MAX_SAMPLES = 200  # Of a run folder: later evaluations keep no sample.
_MAX_CHARACTERS = 2000


def sampled(experiment: Experiment, events: Events) -> Events:
    """Yield the events of a training, and a sample after each evaluation.

    At the end, also after an error, the training is closed and its folder released.

    Args:
        experiment: Training run of the group's first process.
        events: Its events, from `session.run`.

    Raises:
        CheckpointError: samples.jsonl cannot be written.
    """
    try:
        with closing(events):
            yield from _sampled(experiment, events)
    finally:
        experiment.lock.release()  # A generator that was never started does not do it.


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of samples.jsonl, without damaged ones: `step` and `text`."""
    path = folder / SAMPLES
    samples = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        with suppress(*PARSE_ERRORS):
            samples.append(validate_facts(parse_json(line), SampleFacts))
    return samples[:_MAX_SAMPLES]


def _sampled(experiment: Experiment, events: Events) -> Iterator[Event]:
    count = _truncate(experiment)
    for event in events:
        yield event
        if isinstance(event, Evaluated) and experiment.model.direction != "both":
            sample_event = Sampled(step=event.metrics["step"], text=_sample(experiment))
            if count < _MAX_SAMPLES:
                _append(experiment.folder, sample_event)
                count += 1
            yield sample_event
        elif isinstance(event, Halved):
            count = _truncate(experiment)


def _sample(experiment: Experiment) -> str:
    """Return a few hundred characters from the model, always with the same seed."""
    model = experiment.model
    trained = of_experiment(experiment)
    options = SampleOptions(
        stop=StopCondition(length=_LENGTH[experiment.tokenizer.section.level]),
        filters=Filters(temperature=_TEMPERATURE),
        count=_RECORDS if trained.writes_records else 1,
        seed=_SEED,
        scored=False,
    )
    was_training = model.training
    model.eval()
    try:
        samples = sample(trained, options)
    finally:
        model.train(was_training)
    return "\n".join(written.text for written in samples)[:_MAX_CHARACTERS]


def _append(folder: Path, event: Sampled) -> None:
    line = json.dumps({"step": event.step, "text": event.text})
    append_line(folder / SAMPLES, line, error_type=CheckpointError, remedy=CONTINUE)


def _truncate(experiment: Experiment) -> int:
    """Remove the samples of steps that training is about to repeat; return the number kept."""
    path = experiment.folder / SAMPLES
    samples = read_samples(experiment.folder)
    kept = [line for line in samples if line["step"] <= experiment.state.step]
    if len(kept) < len(samples):
        write_file(path, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
    return len(kept)
