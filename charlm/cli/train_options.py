"""The options of `charlm train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from charlm.cli.new_run import ConfigName, Corpora, Overrides, Task, TextArguments
from charlm.cli.options import (
    MAX_PROCESSES,
    above_zero,
    as_new_path,
    as_path,
    at_most,
    count_option,
    known_device,
    seed_option,
)

Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", parser=as_new_path, help="Run folder to create. [runs/NAME-TIME]"),
]
Minutes = Annotated[
    float | None, typer.Option(callback=above_zero, help="Budget: minutes of training steps.")
]
Steps = Annotated[int | None, count_option(help="Budget: number of training steps.")]
Epochs = Annotated[
    float | None,
    typer.Option(callback=above_zero, help="Budget: number of passes over the text."),
]
Seed = Annotated[int | None, seed_option(help="Seed of initial weights, dropout and data order.")]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="SEEDS",
        help="Train once per seed, as in 1..5 or 1,7; print mean, standard deviation and range "
        "of the scores.",
    ),
]
TrainingDevice = Annotated[
    str | None, typer.Option(callback=known_device, help="auto, cpu, cuda or cuda:N.")
]
OnDivergence = Annotated[
    Literal["stop", "halve"] | None,
    typer.Option(
        help="If the loss is not finite: stop, or halve the learning rate and go back. [stop]"
    ),
]
FromRun = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        parser=as_path,
        help="Start from the weights and the tokenizer of another run, not from random weights.",
    ),
]
FromVocabulary = Annotated[
    Literal["grow", "keep"] | None,
    typer.Option(
        help="With --from, tokens that are only in the new text: grow adds them; keep reads them "
        "as <UNK>. [grow]"
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="RUN", parser=as_path, help="Run folder whose training continues."),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=at_most(MAX_PROCESSES),
        help="Number of processes on this machine that train together.",
    ),
]
Track = Annotated[
    Literal["tensorboard"] | None,
    typer.Option(help="Also write metrics and samples to RUN/tensorboard, for TensorBoard."),
]
Report = Annotated[
    bool,
    typer.Option(
        "--report",
        help="At the end, write RUN/report.html; with --seeds, one report on all runs. See charlm "
        "view.",
    ),
]


@dataclass(frozen=True)
class TrainArguments:
    """The arguments of `charlm train`, in the order of its help."""

    texts: TextArguments = None
    config: ConfigName = None
    corpus: Corpora = None
    overrides: Overrides = None
    task: Task = None
    out: Out = None
    minutes: Minutes = None
    steps: Steps = None
    epochs: Epochs = None
    seed: Seed = None
    seeds: Seeds = None
    device: TrainingDevice = None
    on_divergence: OnDivergence = None
    from_run: FromRun = None
    from_vocabulary: FromVocabulary = None
    resume: Resume = None
    processes: Processes = None
    track: Track = None
    report: Report = False

    @property
    def sources(self) -> list[str]:
        """Names and paths of the texts."""
        return [*(self.corpus or []), *(self.texts or [])]
