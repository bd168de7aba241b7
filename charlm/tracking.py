"""Write a training for TensorBoard: the numbers of metrics.jsonl, and a sample at each evaluation.

docs/train.md lists the names. Event files repeat metrics.jsonl. If the two differ when a training
is resumed, the events from the first difference on are purged and written again.
"""

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.errors import CharlmError, CheckpointError
from charlm.runs.experiment import Evaluated, Event, Events, Experiment, Halved, Sampled
from charlm.runs.files import CONTINUE, EVENT_FILES
from charlm.runs.metrics import flat_metrics, read_metrics
from charlm.version import install_hint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SAMPLE = "sample"


def check_installed() -> None:
    """Raise CharlmError if TensorBoard, which is an extra, is not installed."""
    try:
        import tensorboard  # type: ignore[import-untyped]  # noqa: F401 - only checked here.
    except ImportError:
        raise CharlmError(f"TensorBoard is not installed; {install_hint('track')}") from None


def tracked(experiment: Experiment, events: Events) -> Events:
    """Yield the events of a training, after writing evaluations and halvings to event files.

    At the end, also after an error, the training is closed and its folder released.

    Args:
        experiment: Training run of the group's first process.
        events: Its events, from `sampled`.

    Raises:
        CheckpointError: An event file cannot be written, or an existing one is damaged.
    """
    try:
        with closing(events):
            yield from _tracked(experiment, events)
    finally:
        experiment.lock.release()  # A generator that was never started does not release it.


def _tracked(experiment: Experiment, events: Iterator[Event]) -> Iterator[Event]:
    with _write_errors_reported(experiment.folder / EVENT_FILES):
        writer = _open_writer(experiment.folder)
    try:
        for event in events:
            with _write_errors_reported(experiment.folder / EVENT_FILES):
                if isinstance(event, Evaluated):
                    _add_scalars(writer, event.metrics)
                    writer.flush()
                elif isinstance(event, Sampled):
                    _write_sample(writer, event)
                elif isinstance(event, Halved):
                    # Purges the evaluations that the training has undone.
                    writer.close()
                    writer = _open_writer(experiment.folder)
            yield event
    finally:
        with _write_errors_reported(experiment.folder / EVENT_FILES):
            writer.close()


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl by name.

    >>> scalars({"step": 6, "gradient_norms": {"layer_0": 0.5}, "is_best": True})
    {'step': 6.0, 'gradient_norms/layer_0': 0.5}
    """
    return {
        name: float(value)
        for name, value in flat_metrics(metrics).items()
        if _is_number(value) and name.isascii()
    }


def _is_number(value: object) -> bool:
    is_integer = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return is_integer or isinstance(value, float)


def _open_writer(run_folder: Path) -> "SummaryWriter":
    """Return a writer to a new event file, after which the event files agree with metrics.jsonl."""
    from torch.utils.tensorboard import SummaryWriter

    lines = read_metrics(run_folder)
    written = _read_events(run_folder / EVENT_FILES)
    expected = Counter((name, line["step"]) for line in lines for name in scalars(line))
    # Only in metrics.jsonl: not tracked, or lost in a crash. Only in event files: undone since.
    differences = [step for name, step in (expected - written) + (written - expected)]
    purge_step = min(differences, default=None)
    writer = SummaryWriter(str(run_folder / EVENT_FILES), purge_step=purge_step)
    for line in lines:
        if purge_step is not None and line["step"] >= purge_step:
            _add_scalars(writer, line)
    writer.flush()
    return writer


def _write_sample(writer: "SummaryWriter", event: Sampled) -> None:
    if event.text:
        # TensorBoard shows Markdown: an indented text stays as it is.
        markdown = textwrap.indent(event.text, "    ", lambda line: True)
        writer.add_text(SAMPLE, markdown, event.step)
    writer.flush()


def _add_scalars(writer: "SummaryWriter", metrics: Mapping[str, Any]) -> None:
    for name, value in scalars(metrics).items():
        writer.add_scalar(name, value, metrics["step"])


def _read_events(folder: Path) -> Counter[tuple[str, int]]:
    """Count the numbers in the event files by name and step, without purged ones.

    Raises:
        CheckpointError: A file is damaged.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-untyped]
        LegacyEventFileLoader,
    )

    counts: Counter[tuple[str, int]] = Counter()
    for path in sorted(folder.glob("*tfevents*")):  # TensorBoard reads them in this order.
        try:
            for event in LegacyEventFileLoader(str(path)).Load():
                if event.HasField("session_log"):
                    counts = Counter({key: n for key, n in counts.items() if key[1] < event.step})
                for value in event.summary.value:
                    counts[value.tag, event.step] += value.HasField("simple_value")
        except (OSError, DecodeError, MemoryError, OverflowError):
            raise CheckpointError(
                f"{path}: damaged, not an event file; remove {folder}, and its numbers are written "
                "again from metrics.jsonl"
            ) from None
    return +counts


@contextmanager
def _write_errors_reported(folder: Path) -> Iterator[None]:
    """Turn an error while writing event files into a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written: {error.strerror}; {CONTINUE}"
        ) from None
