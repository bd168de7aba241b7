"""The progress of a training: a bar, and a line and a short sample per evaluation, on stderr."""

import math
import sys
from collections.abc import Callable
from contextlib import closing

from tqdm import tqdm

from charlm.cli.terminal import emit, say
from charlm.errors import CharlmError
from charlm.runs import session
from charlm.runs.experiment import Evaluated, Event, Experiment, Finished, Halved, Notice, Prepared
from charlm.runs.signals import StopRequest, stop_requests
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import stream
from charlm.tracking import tracked
from charlm.trained_model import of_experiment
from charlm.training.loop import Progress

_SAMPLE_LENGTH = {"char": 120, "byte": 120, "word": 25, "bpe": 40}  # In tokens.
_SAMPLE_TEMPERATURE = 0.8
_REFRESH_SECONDS = 0.2


def follow(prepare: Callable[[], Experiment], *, track: bool = False) -> int:
    """Prepare a training, run it, show its progress, and print its run folder on stdout.

    If several processes train together, only the first one prints.

    Args:
        prepare: Returns the experiment.
        track: Whether to write metrics for TensorBoard too.

    Returns:
        The exit status: 0, or 128 plus the number of the signal that has stopped the training.
    """
    experiment = prepare()
    if not experiment.group.is_first:
        with stop_requests(ignore_second=True) as stop_requested:
            for _ in session.run(experiment, stop=stop_requested):
                pass
        return 0
    if experiment.state.fraction_done(experiment.config.training) >= 1:
        say("the budget is spent; to continue, give a larger one, such as --epochs 10")
    with stop_requests(ignore_second=experiment.group.size > 1) as stop_requested:
        status = _show_events(experiment, stop_requested, track=track)
    emit(str(experiment.folder))
    return status


def _show_events(experiment: Experiment, stop: StopRequest, *, track: bool) -> int:
    """Train and show the events; return the exit status."""
    status = 0
    display = _Display(experiment)
    try:
        events = session.run(experiment, stop=stop)
        with closing(tracked(experiment, events) if track else events) as shown:
            for event in shown:
                display.show(event)
                if isinstance(event, Finished) and event.reason == "stopped":
                    status = stop.exit_status
    except CharlmError:
        display.close()
        if (experiment.folder / "last" / "state.json").is_file():
            say(f"the last good checkpoint is kept: {experiment.folder}/last")
        raise
    finally:
        display.close()
    return status


class _Display:
    """Shows the events of a training."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        # If stderr is not a terminal, only the lines are printed.
        self._bar = tqdm(
            total=100,
            unit="%",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            mininterval=_REFRESH_SECONDS,
            bar_format="{percentage:3.0f}% |{bar}| {desc} [{elapsed}<{remaining}]",
        )
        self._refreshed_at = -math.inf

    def show(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Prepared():
                self._show_experiment()
            case Progress():
                self._show_progress(event)
            case Evaluated():
                self._show_evaluation(event)
            case Halved():
                self._show_halving(event)
            case Notice():
                say(event.message, self._bar)
            case Finished():
                self.close()
                self._show_end(event)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def _show_experiment(self) -> None:
        experiment = self._experiment
        config, num_tokens = experiment.config, experiment.tokenizer.vocabulary_size
        for part, tokens in experiment.tokens.items():
            counts = tokens.counts
            say(
                f"{part}: {counts.tokens:,} tokens, {counts.characters:,} characters, "
                f"{counts.unknown_share:.2%} unknown"
            )
        for part, share in experiment.corpus.shares_in_training().items():
            if share:
                say(f"{part}: {share:.1%} of its records are in the training text too")
        say(
            f"text: {experiment.corpus.title}; mode {experiment.corpus.mode}, "
            f"level {config.tokenizer.level}, vocabulary of {num_tokens:,} tokens"
        )
        num_parameters = sum(tensor.numel() for tensor in experiment.model.parameters())
        precision = str(experiment.hardware.precision).removeprefix("torch.")
        say(
            f"model: {config.model.cell.kind}, {num_parameters:,} parameters; "
            f"device {experiment.hardware.device}, precision {precision}"
        )
        if experiment.vectors_fraction is not None:
            say(
                f"vectors: {experiment.vectors_fraction:.1%} of the vocabulary is in "
                f"{config.model.vectors}; the other embeddings start at random"
            )
        say(f"run folder: {experiment.folder}")

    def _show_progress(self, progress: Progress) -> None:
        state = progress.state
        if self._bar.disable or state.seconds - self._refreshed_at < _REFRESH_SECONDS:
            return
        self._refreshed_at = state.seconds
        loss_nats = float(progress.loss)
        counts = self._experiment.tokens["train"].counts
        bits = loss_nats * counts.tokens / (math.log(2) * max(counts.characters, 1))
        tokens_per_second = state.tokens / max(state.seconds, 1e-9)
        self._bar.n = 100 * min(progress.fraction_done, 1.0)
        self._bar.set_description_str(
            f"loss {loss_nats:.3f}, {bits:.3f} bits/character, {tokens_per_second:,.0f} tokens/s",
            refresh=False,
        )
        self._bar.refresh()

    def _show_evaluation(self, event: Evaluated) -> None:
        metrics = event.metrics
        line = (
            f"step {metrics['step']:,}, epoch {metrics['epochs']:.2f}, "
            f"{metrics['seconds']:.0f} s: training loss {metrics['training_loss_nats']:.4f}"
        )
        if event.score is not None:
            line += (
                f", validation loss {metrics['loss_nats']:.4f} nats/token, "
                f"{metrics['bits_per_character']:.3f} bits/character"
            )
            line += ", best" if event.is_best else ""
        say(line, self._bar)
        if not self._bar.disable and event.experiment.model.direction != "both":
            say(f"  {self._short_sample()}", self._bar)

    def _show_halving(self, event: Halved) -> None:
        self._refreshed_at = -math.inf
        metrics, limit = event.metrics, event.experiment.config.training.halvings
        say(
            f"{event.message}; continuing from step {metrics['step']:,} with a peak learning rate "
            f"of {metrics['learning_rate']:.2g} (halving {metrics['halvings']} of at most {limit})",
            self._bar,
        )

    def _show_end(self, event: Finished) -> None:
        experiment = event.experiment
        if event.reason == "stopped":
            say(
                f"stopped and saved at step {experiment.state.step:,}; "
                f"continue with: charlm train --resume {experiment.folder}"
            )
        elif event.reason == "patience":
            patience = experiment.config.training.patience
            say(f"stopped early: no new best in {patience} evaluations")

    def _short_sample(self) -> str:
        """Return a sample in one line."""
        model = self._experiment.model
        model.eval()
        length = _SAMPLE_LENGTH[self._experiment.tokenizer.section.level]
        options = SampleOptions(stop=StopCondition(length=length), filters=Filters(temperature=0.8))
        pieces = stream(of_experiment(self._experiment), options)
        text = "".join(pieces)
        model.train()
        return "".join(letter if letter.isprintable() else " " for letter in text).strip()
