"""What a person sees while a model trains: a bar, a line and a short sample at each evaluation. All on stderr."""

import math
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm

from charlm.cli.terminal import emit, say
from charlm.errors import CharlmError
from charlm.runs import session
from charlm.runs.experiment import Evaluated, Event, Experiment, Finished, Halved, Prepared
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import stream
from charlm.tracking import tracked
from charlm.trained_model import of_experiment
from charlm.training.loop import Progress

_SAMPLE_LENGTH = {"char": 120, "byte": 120, "word": 25, "bpe": 40}
_REFRESH_SECONDS = 0.2


def follow(
    prepare: Callable[[], Experiment], *, first: Sequence[str] = (), track: bool = False
) -> None:
    """Prepare and run a training, show it, and print its run folder on stdout.

    Of several processes that train together the first one shows it.

    Args:
        prepare: Returns the experiment.
        first: Lines to be said as soon as it is prepared.
        track: Write it for TensorBoard, too.
    """
    experiment = prepare()
    if not experiment.group.is_first:
        with stop_requests(patient=True) as stop_requested:
            for _ in session.run(experiment, stop=stop_requested):
                pass
        return
    for line in first:
        say(line)
    if experiment.state.fraction_done(experiment.config.training) >= 1:
        say("its budget is spent already; give a larger one to go on, such as --epochs 10")
    with stop_requests(patient=experiment.group.size > 1) as stop_requested:
        view = _View(experiment)
        try:
            events = session.run(experiment, stop=stop_requested)
            for event in tracked(experiment, events) if track else events:
                view.show(event)
        except CharlmError:
            view.close()
            if (experiment.folder / "last" / "state.json").is_file():
                say(f"the last good checkpoint is kept: {experiment.folder}/last")
            raise
        finally:
            view.close()
    emit(str(experiment.folder))


class _View:
    """Shows events as they come."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        # A bar is for eyes: where stderr is a file, only the lines of evaluations are written.
        self._bar = tqdm(
            total=100,
            unit="%",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            mininterval=_REFRESH_SECONDS,
            bar_format="{percentage:3.0f}% |{bar}| {desc} [{elapsed}<{remaining}]",
        )
        self._shown_at = -math.inf

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Prepared():
                self._introduce()
            case Progress():
                self._advance(event)
            case Evaluated():
                self._evaluated(event)
            case Halved():
                self._halved(event)
            case Finished():
                self.close()
                self._finished(event)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def _introduce(self) -> None:
        experiment = self._experiment
        for part, tokens in experiment.tokens.items():
            counts = tokens.counts
            unknown = f"{counts.unknown_share:.2%} unknown"
            say(f"{part}: {counts.tokens:,} tokens of {counts.characters:,} characters, {unknown}")
        parameters = sum(tensor.numel() for tensor in experiment.model.parameters())
        precision = str(experiment.precision).removeprefix("torch.")
        tokenizer, config = experiment.tokenizer, experiment.config
        say(
            f"{experiment.corpus.title} ({experiment.corpus.mode}) by {config.tokenizer.level}, vocabulary "
            f"{tokenizer.vocabulary_size:,}; {config.model.cell.kind} with {parameters:,} parameters on "
            f"{experiment.device} in {precision}; {experiment.folder}"
        )
        if experiment.vectors_share is not None:
            found = f"{experiment.vectors_share:.1%} of the vocabulary is in {config.model.vectors}"
            say(f"{found}; the rest starts at random")

    def _advance(self, progress: Progress) -> None:
        if self._bar.disable or progress.state.seconds - self._shown_at < _REFRESH_SECONDS:
            return
        self._shown_at = progress.state.seconds
        loss = float(progress.loss)
        counts = self._experiment.tokens["train"].counts
        bits = loss * counts.tokens / (math.log(2) * max(counts.characters, 1))
        speed = progress.state.tokens / max(progress.state.seconds, 1e-9)
        self._bar.n = 100 * min(progress.fraction_done, 1.0)
        self._bar.set_description_str(
            f"loss {loss:.3f}, {bits:.3f} bits/character, {speed:,.0f} tokens/s", refresh=False
        )
        self._bar.refresh()

    def _evaluated(self, event: Evaluated) -> None:
        metrics = event.metrics
        line = f"step {metrics['step']:,}, epoch {metrics['epochs']:.2f}, {metrics['seconds']:.0f} s: training "
        line += f"{metrics['training_loss_nats']:.4f}"
        if event.score is not None:
            line += f", validation {metrics['loss_nats']:.4f} nats/token, {metrics['bits_per_character']:.3f} "
            line += f"bits/character{', best' if event.is_best else ''}"
        say(line, self._bar)
        if not self._bar.disable and event.experiment.model.direction != "both":
            say(f"  {self._short_sample()}", self._bar)

    def _halved(self, event: Halved) -> None:
        self._shown_at = -math.inf
        facts = event.metrics
        say(
            f"{event.why}; back to step {facts['step']:,}, on with a peak rate of {facts['learning_rate']:.2g}, halved "
            f"{facts['halvings']} of at most {event.experiment.config.training.halvings} times",
            self._bar,
        )

    def _short_sample(self) -> str:
        model = self._experiment.model
        model.eval()
        length = _SAMPLE_LENGTH[self._experiment.tokenizer.section.level]
        options = SampleOptions(stop=StopCondition(length=length), filters=Filters(temperature=0.8))
        pieces = stream(of_experiment(self._experiment), options)
        text = "".join(pieces)
        model.train()
        return "".join(letter if letter.isprintable() else " " for letter in text).strip()

    def _finished(self, event: Finished) -> None:
        folder = event.experiment.folder
        if event.reason == "stopped":
            say(
                f"stopped and saved at step {event.experiment.state.step:,}; go on: charlm train --resume {folder}"
            )
        elif event.reason == "patience":
            say(
                f"no new best in {event.experiment.config.training.patience} evaluations: stopped early"
            )


@contextmanager
def stop_requests(*, patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the step; a second Ctrl-C stops at once.

    `patient`: it does not. What has started several processes hands on the first Ctrl-C, that they have heard already.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
