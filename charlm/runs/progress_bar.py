"""The progress of a training as a bar, in a terminal or a notebook, and a line per evaluation.

Scores have one unit: perplexity for words, bits per character for other tokens, and nats per target
for the targets of a task.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from charlm.config.tokenizer import Level
from charlm.runs.experiment import Evaluated, Events, Experiment, Halved, Notice
from charlm.runs.metrics import level_of_scores, score_field, unit_of
from charlm.training.loop import Progress

_REFRESH_SECONDS = 0.2
_SHOWN_UNKNOWN = 0.0005  # Fraction of unknown tokens from which it is shown.
_MAX_EXPONENT = 700.0  # exp of more is infinite.
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
        level = level_of_scores(self._experiment.config)
        loss = format_score(training_score(self._experiment, float(progress.loss)), level)
        speed = state.tokens / max(state.seconds, 1e-9)
        text = f"{loss} {unit_of(level)}, {speed:,.0f} tokens/s"
        self._bar.set_description_str(text, refresh=False)
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


def shown(experiment: Experiment, events: Events, *, first_lines: Sequence[str] = ()) -> Events:
    """Yield the events of a training, after showing steps and evaluations on stderr."""
    with closing(ProgressBar(experiment)) as bar:
        for line in (*first_lines, f"run folder: {experiment.folder}"):
            bar.write(line)
        for event in events:
            if isinstance(event, Progress):
                bar.show(event)
            elif isinstance(event, Evaluated):
                bar.write(evaluation_line(event))
            elif isinstance(event, Halved):
                bar.write(halving_line(event))
            elif isinstance(event, Notice):
                bar.write(event.message)
            yield event


def format_score(score: float | None, level: Level | None) -> str:
    """Return a score in the unit of the level; "-" where it is not known."""
    if score is None:
        return "-"
    if score >= 1e6:  # Of a diverged run.
        return f"{score:.2g}"
    if level is None:
        return f"{score:.4f}"
    return f"{score:,.1f}" if level == "word" else f"{score:.3f}"


def validation_score(history: Sequence[Mapping[str, Any]], step: int, level: Level | None) -> str:
    """Return the validation score of a step with its unit; "not scored" without one."""
    field = score_field(level)
    scores = [line[field] for line in history if line["step"] == step and field in line]
    return f"{format_score(scores[-1], level)} {unit_of(level)}" if scores else "not scored"


def training_score(experiment: Experiment, loss_nats: float) -> float:
    """Return a mean training loss per token in the unit of the level."""
    level = level_of_scores(experiment.config)
    if level is None:
        return loss_nats
    if level == "word":
        return math.exp(min(loss_nats, _MAX_EXPONENT))
    counts = experiment.tokens["train"].counts
    return loss_nats * counts.tokens / (math.log(2) * max(counts.characters, 1))


def evaluation_line(event: Evaluated) -> str:
    """Return a line about an evaluation.

    An example is "step 400, epoch 0.22, 14 s: training 3.053, validation 2.526 bits per character,
    best".
    """
    experiment, metrics = event.experiment, event.metrics
    level = level_of_scores(experiment.config)
    training = training_score(experiment, metrics["training_loss_nats"])
    line = (
        f"step {metrics['step']:,}, epoch {metrics['epochs']:.2f}, {metrics['seconds']:.0f} s: "
        f"training {format_score(training, level)}"
    )
    if event.score is None:
        return f"{line} {unit_of(level)}"
    line += f", validation {format_score(metrics[score_field(level)], level)} {unit_of(level)}"
    if "accuracy" in metrics:
        line += f", accuracy {metrics['accuracy']:.2%}"
    unknown = experiment.tokens["valid"].counts.unknown_share
    if unknown >= _SHOWN_UNKNOWN:
        line += f" ({unknown:.1%} unknown {'words' if level == 'word' else 'characters'})"
    return line + (", best" if event.is_best else "")


def halving_line(event: Halved) -> str:
    """Return a line about a divergence after which training continues."""
    metrics, limit = event.metrics, event.experiment.config.training.halvings
    return (
        f"{event.message}; continuing from step {metrics['step']:,} with a peak learning rate "
        f"of {metrics['learning_rate']:.2g} (halving {metrics['halvings']} of at most {limit})"
    )


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
