"""The progress of a training: a bar, and a line and a short sample per evaluation, on stderr."""

import shlex
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from charlm.cli.terminal import emit, say
from charlm.data.listing import shown_title
from charlm.errors import CharlmError, DivergenceError, counted, quote
from charlm.runs import session
from charlm.runs.experiment import (
    Evaluated,
    Event,
    Experiment,
    Finished,
    Halved,
    Notice,
    Prepared,
    Sampled,
)
from charlm.runs.progress_bar import ProgressBar, evaluation_line, halving_line
from charlm.runs.signals import StopRequest, stop_requests
from charlm.sampling.during_training import sampled
from charlm.tracking import tracked
from charlm.training.loop import Progress

_SAMPLE_CHARACTERS = 160  # Number of characters of each sample on a terminal.
_SAMPLE_LINES = 4
_SHOWN_LABELS = 10


def follow(prepare: Callable[[], Experiment], *, track: bool = False, report: bool = False) -> int:
    """Prepare a training, run it, show its progress, and print its run folder on stdout.

    If several processes train together, only the first one prints.

    Args:
        prepare: Returns the experiment.
        track: Whether to write metrics for TensorBoard too.
        report: Whether to write a report when the training has ended.

    Returns:
        The exit status: 0, or 128 plus the number of the signal that has stopped the training.
    """
    experiment = prepare()
    if not experiment.group.is_first:
        with stop_requests(ignore_second=True) as stop_requested:
            for _ in session.run(experiment, stop=stop_requested):
                pass
        return 0
    with stop_requests(ignore_second=experiment.group.size > 1) as stop_requested:
        status = _show_events(experiment, stop_requested, track=track)
    if report and status == 0:
        write_report_on([experiment.folder])
    emit(str(experiment.folder))
    return status


def write_report_on(folders: Sequence[Path], out: Path | None = None) -> None:
    """Write a report on runs, by default to the folder of the first, and print its path."""
    from charlm.api import load_any, write_report

    path = write_report([load_any(folder) for folder in folders], out, report_progress=say)
    say(f"report: {path}")


def _show_events(experiment: Experiment, stop: StopRequest, *, track: bool) -> int:
    """Train and show the events; return the exit status."""
    status = 0
    display = _Display(experiment)
    try:
        events = sampled(experiment, session.run(experiment, stop=stop))
        with closing(tracked(experiment, events) if track else events) as shown:
            for event in shown:
                display.show(event)
                if isinstance(event, Finished) and event.reason == "stopped":
                    status = stop.exit_status
    except CharlmError as error:
        display.close()
        if (experiment.folder / "last" / "state.json").is_file():
            say(f"the last good checkpoint is kept: {experiment.folder}/last")
            may_halve = experiment.config.training.on_divergence == "halve"
            if isinstance(error, DivergenceError) and not may_halve:
                say(_after_divergence(experiment))
        raise
    finally:
        display.close()
    return status


def _after_divergence(experiment: Experiment) -> str:
    """Return a line with the command that continues after a divergence."""
    folder = shlex.quote(str(experiment.folder))
    command = f"charlm train --resume {folder} --on-divergence halve"
    return f"to continue, and to halve the learning rate if it diverges again: {command}"


class _Display:
    """Shows the events of a training."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._bar = ProgressBar(experiment)

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Prepared():
                for line in _experiment_lines(self._experiment):
                    say(line)
            case Progress():
                self._bar.show(event)
            case Evaluated():
                self._show_evaluation(event)
            case Sampled():
                self._show_sample(event)
            case Halved():
                say(halving_line(event), self._bar)
            case Notice():
                say(event.message, self._bar)
            case Finished():
                self.close()
                self._show_end(event)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _show_evaluation(self, event: Evaluated) -> None:
        say(evaluation_line(event), self._bar)

    def _show_sample(self, event: Sampled) -> None:
        """Show the first lines of a sample on a terminal."""
        if self._bar.is_shown:
            short = "\n".join(event.text.strip()[:_SAMPLE_CHARACTERS].split("\n")[:_SAMPLE_LINES])
            say(textwrap.indent(short, "  "), self._bar)

    def _show_end(self, event: Finished) -> None:
        experiment = event.experiment
        if event.reason == "stopped":
            say(
                f"stopped and saved at step {experiment.state.step:,}; "
                f"continue with: charlm train --resume {shlex.quote(str(experiment.folder))}"
            )
        elif event.reason == "patience":
            patience = experiment.config.training.patience or 0
            say(f"stopped early: no new best in {counted(patience, 'evaluation')}")


def _experiment_lines(experiment: Experiment) -> Iterator[str]:
    """Yield lines about the text, the task, the model and the run folder."""
    yield from _text_lines(experiment)
    yield from _task_lines(experiment)
    yield from (f"warning: {warning}" for warning in experiment.corpus.warnings)
    num_parameters = sum(tensor.numel() for tensor in experiment.model.parameters())
    precision = str(experiment.hardware.precision).removeprefix("torch.")
    yield (
        f"model: {experiment.config.model.cell.kind}, {num_parameters:,} parameters; "
        f"device {experiment.hardware.device}, precision {precision}"
    )
    if experiment.vectors_fraction is not None:
        yield (
            f"vectors: {experiment.vectors_fraction:.1%} of the vocabulary is in "
            f"{experiment.config.model.vectors}; the other embeddings start at random"
        )
    yield f"run folder: {experiment.folder}"


def _text_lines(experiment: Experiment) -> Iterator[str]:
    for part, tokens in experiment.tokens.items():
        counts = tokens.counts
        yield (
            f"{part}: {counts.tokens:,} tokens, {counts.characters:,} characters, "
            f"{counts.unknown_share:.2%} unknown"
        )
    for part, share in experiment.corpus.shares_in_training().items():
        if share:
            yield f"{part}: {share:.1%} of its records are in the training text too"
    yield (
        f"text: {shown_title(experiment.corpus.title)}; mode {experiment.corpus.mode}, "
        f"level {experiment.config.tokenizer.level}, "
        f"vocabulary of {experiment.tokenizer.vocabulary_size:,} tokens"
    )


def _task_lines(experiment: Experiment) -> Iterator[str]:
    """Yield a line about the task, if there is one."""
    task, corpus = experiment.config.task, experiment.config.corpus
    if not task.has_pairs:
        return
    line = f"task: {task.kind}"
    if corpus.source and corpus.target:
        line += f"; the source is the field {quote(corpus.source)}, the target the field "
        line += quote(corpus.target)
    if experiment.labels:
        labels = ", ".join(map(quote, experiment.labels[:_SHOWN_LABELS]))
        more = ", ..." if len(experiment.labels) > _SHOWN_LABELS else ""
        line += f"; {len(experiment.labels):,} labels: {labels}{more}"
    yield line
