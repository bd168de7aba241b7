"""A training as TensorBoard shows it: the numbers of metrics.jsonl, and what the model writes at each evaluation.

Each metric has the name that docs/tracking.md tells. An event file repeats metrics.jsonl: where the two differ when a
training is taken up, what the event files hold from there on is declared void and written again.
"""

import re
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from charlm.errors import CharlmError, CheckpointError
from charlm.runs.experiment import Evaluated, Event, Experiment, Halved
from charlm.runs.files import EVENT_FILES
from charlm.runs.metrics import read_metrics
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.trained_model import of_experiment

SAMPLE = "sample"
# Tokens that make a few hundred characters; of records, which are short, several texts.
_SAMPLE_LENGTH, _SAMPLE_RECORDS = {"char": 400, "byte": 400, "word": 80, "bpe": 130}, 10
_SAMPLE_SEED, _SAMPLE_TEMPERATURE = 1, 0.8
_VERSION = "brain.Event:2"  # Of the format in which `SessionLog.START` makes void what has its step or a later one.
_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\..+")


def check_installed() -> None:
    """Raise CharlmError where TensorBoard, an extra, is not installed."""
    try:
        import tensorboard  # type: ignore[import-untyped]  # noqa: F401 - it is used where it is needed.
    except ImportError:
        raise CharlmError("TensorBoard is not installed; pip install 'charlm[track]'") from None


def tracked(experiment: Experiment, events: Iterator[Event]) -> Iterator[Event]:
    """Pass on what happens in a training, each evaluation written to `RUN/tensorboard` first.

    Args:
        experiment: From `begin` or `resume`, of the group's first process.
        events: From `session.run` of it.

    Raises:
        CheckpointError: The event file cannot be written, or one that is there is damaged.
    """
    log = _EventFile(experiment.folder)
    try:
        for event in events:
            if isinstance(event, Evaluated | Halved):
                log.add(event.metrics, _sample(experiment) if isinstance(event, Evaluated) else "")
            yield event
    finally:
        log.close()


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl by name, such as `loss_nats` or `gradient_norms/layer_0`."""
    flat: dict[str, Any] = {}
    for name, value in line.items():
        inner = value if isinstance(value, dict) else None
        flat |= (
            {name: value}
            if inner is None
            else {f"{name}/{key}": each for key, each in inner.items()}
        )
    return {
        name: float(value) for name, value in flat.items() if _is_number(value) and name.isascii()
    }


def _is_number(value: object) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return is_whole or isinstance(value, float)


def _sample(experiment: Experiment) -> str:
    """Return a few hundred characters that the model writes, the same ones for the same weights; "" if it cannot."""
    model, trained = experiment.model, of_experiment(experiment)
    if model.direction == "both":
        return ""
    was_training = model.training
    model.eval()
    try:
        options = SampleOptions(
            stop=StopCondition(length=_SAMPLE_LENGTH[experiment.tokenizer.section.level]),
            filters=Filters(temperature=_SAMPLE_TEMPERATURE),
            count=_SAMPLE_RECORDS if trained.writes_records else 1,
            seed=_SAMPLE_SEED,
            scored=False,
        )
        samples = sample(trained, options)
    finally:
        model.train(was_training)
    return "\n".join(sample.text for sample in samples)


class _EventFile:
    """A new event file of a run folder, which goes on from those that are there. A line of metrics.jsonl is a record.

    Not torch's SummaryWriter: it writes from a thread, whose error comes late and as a traceback, and a record for
    each number, so that a crash leaves a part of a line.
    """

    def __init__(self, run_folder: Path) -> None:
        """Write what metrics.jsonl holds, and the event files do not."""
        from tensorboard.compat.proto.event_pb2 import SessionLog  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self._folder = run_folder / EVENT_FILES
        lines = read_metrics(run_folder)
        own, held = Counter[int](line["step"] for line in lines), _steps_held(self._folder)
        # In metrics.jsonl alone: written untracked, or just before a crash. In event files alone: cut since.
        since = min((step for step in own | held if own[step] != held[step]), default=None)
        with self._told():
            self._folder.mkdir(exist_ok=True)
            self._file = _next_name(self._folder).open("xb")
            self._records = RecordWriter(self._file)
            self._write(file_version=_VERSION)
        if since is not None and held:
            with self._told():
                self._write(step=since, session_log=SessionLog(status=SessionLog.START))
        for line in lines:
            if since is not None and line["step"] >= since:
                self.add(line)

    def add(self, line: Mapping[str, Any], sample: str = "") -> None:
        """Write a line of metrics.jsonl, and a text if there is one."""
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
        from tensorboard.plugins.text.summary_v2 import text_pb  # type: ignore[import-untyped]

        summary = Summary(
            value=[
                Summary.Value(tag=name, simple_value=value) for name, value in scalars(line).items()
            ]
        )
        if sample:  # Shown as Markdown: indented, it stands as it is.
            summary.MergeFrom(text_pb(SAMPLE, textwrap.indent(sample, "    ", lambda line: True)))
        with self._told():
            self._write(step=line["step"], summary=summary)

    def close(self) -> None:
        """Write no more."""
        with self._told():
            self._file.close()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._file.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._folder}: cannot be written: {error.strerror}; free the disk or mend the folder, then go on "
                "with --resume"
            ) from None


def _event_files(folder: Path) -> list[Path]:
    """Return the event files of a folder in the order in which TensorBoard reads them: by name."""
    return sorted(
        path for path in folder.glob("*") if _NAME.fullmatch(path.name) and path.is_file()
    )


def _next_name(folder: Path) -> Path:
    """Return a name that comes after those of the files that are there, whatever the clock says."""
    numbers = [int(path.name.split(".")[3]) for path in _event_files(folder)]
    return (
        folder
        / f"events.out.tfevents.{max([int(time.time()), *(number + 1 for number in numbers)]):010d}.charlm"
    )


def _steps_held(folder: Path) -> Counter[int]:
    """Return how many lines of each step the event files hold, without those that are void.

    Raises:
        CheckpointError: One holds what is no event.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-untyped]
        LegacyEventFileLoader,
    )

    held: Counter[int] = Counter()
    for path in _event_files(folder):
        try:
            for event in LegacyEventFileLoader(str(path)).Load():
                if event.HasField("session_log"):
                    held = Counter(
                        {step: count for step, count in held.items() if step < event.step}
                    )
                held[event.step] += any(value.tag == "step" for value in event.summary.value)
        except (OSError, DecodeError, MemoryError, OverflowError):
            raise CheckpointError(
                f"{path}: damaged: no event file; remove {folder}, and its numbers are written again from metrics.jsonl"
            ) from None
    return +held
