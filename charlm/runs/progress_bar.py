"""The progress of a training as a bar, in a terminal or a notebook, and a line per evaluation.

Scores have one unit per level of the tokens: perplexity for words, bits per character otherwise.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from charlm.runs.experiment import Evaluated, Event, Experiment
from charlm.training.loop import Progress

_REFRESH_SECONDS = 0.2
_FORMAT = "{percentage:3.0f}% |{bar}| {desc} [{elapsed}<{remaining}]"


class ProgressBar:
    """A bar of the spent fraction of a budget. It appears with the first step.

    Attributes:
        is_shown: Whether there is a bar: on a terminal and in a notebook.
    """

    def __init__(self, experiment: Experiment) -> None:
        """Make a bar for a training that is about to begin."""
        self.is_shown = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._experiment = experiment
        self._bar: Any = None
        self._refreshed_at = -math.inf

    def show(self, progress: Progress) -> None:
        """Show a step, at most five times per second of training."""
        state = progress.state
        done = 100 * min(progress.fraction_done, 1.0)
        is_due = state.seconds - self._refreshed_at >= _REFRESH_SECONDS or done == 100
        if not self.is_shown or not is_due:
            return
        self._refreshed_at = state.seconds
        if self._bar is None:
            self._bar = _make_bar(done)
        self._bar.n = done
        loss = _format_score(self._experiment, training_score(self._experiment, progress.loss))
        speed = state.tokens / max(state.seconds, 1e-9)
        unit = unit_of(self._experiment)
        self._bar.set_description_str(f"{loss} {unit}, {speed:,.0f} tokens/s", refresh=False)
        self._bar.refresh()

    def write(self, text: str) -> None:
        """Write a line above the bar."""
        from tqdm.auto import tqdm

        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the bar as it is, and continue below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def shown(experiment: Experiment, events: Iterator[Event]) -> Iterator[Event]:
    """Yield the events of a training, after showing steps and evaluations on stderr."""
    with closing(ProgressBar(experiment)) as bar:
        for event in events:
            if isinstance(event, Progress):
                bar.show(event)
            elif isinstance(event, Evaluated):
                bar.write(evaluation_line(event))
            yield event


def unit_of(experiment: Experiment) -> str:
    """Return the unit of the scores that a training shows."""
    return "perplexity" if _counts_words(experiment) else "bits per character"


def training_score(experiment: Experiment, loss_nats: Any) -> float:
    """Return a mean training loss per token in the unit that a training shows."""
    if _counts_words(experiment):
        return math.exp(min(float(loss_nats), 700.0))
    counts = experiment.tokens["train"].counts
    return float(loss_nats) * counts.tokens / (math.log(2) * max(counts.characters, 1))


def evaluation_line(event: Evaluated) -> str:
    """Return a line about an evaluation.

    >>> evaluation_line(event)
    'step 400, epoch 0.22, 14 s: training 3.053, validation 2.526 bits per character, best'
    """
    experiment, metrics = event.experiment, event.metrics
    training = training_score(experiment, metrics["training_loss_nats"])
    line = (
        f"step {metrics['step']:,}, epoch {metrics['epochs']:.2f}, {metrics['seconds']:.0f} s: "
        f"training {_format_score(experiment, training)}"
    )
    if event.score is not None:
        is_words = _counts_words(experiment)
        validation = metrics["perplexity" if is_words else "bits_per_character"]
        line += f", validation {_format_score(experiment, validation)}"
    line += f" {unit_of(experiment)}"
    if event.score is not None and _counts_words(experiment):
        line += f" ({experiment.tokens['valid'].counts.unknown_share:.1%} unknown words)"
    return line + (", best" if event.is_best and event.score is not None else "")


def _counts_words(experiment: Experiment) -> bool:
    return experiment.config.tokenizer.level == "word"


def _format_score(experiment: Experiment, score: float) -> str:
    return f"{score:,.1f}" if _counts_words(experiment) else f"{score:.3f}"


def _make_bar(done: float) -> Any:
    from tqdm.auto import tqdm

    return tqdm(
        total=100,
        initial=done,
        unit="%",
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=_REFRESH_SECONDS,
        bar_format=_FORMAT,
    )
