"""What a training gains from the weights of another run, and what the network then forgets.

Each text is read line by line. It is trained on with automatic settings, first from random weights
and then from each run that is named with --from, and all networks are scored on the same held-out
lines. No setting is chosen on them. --replay repeats the trainings that start from a run with a
fraction of the old text; "old text" is the loss on the validation text of that run in nats per
token, before and after the training. The table has medians over the seeds, and the range of the
loss.

With --adaptation, the trainings from a run are repeated with methods of Howard and Ruder
(arXiv:1801.06146) and Li et al. (arXiv:1802.01483), which charlm does not have as options:

- discriminative: the learning rate of the recurrence is that of the projection divided by 2.6, and
  that of the embedding is divided by 2.6 again
- unfreezing: the projection is trained from the beginning, the recurrence after a fifth of the
  steps, and the embedding after two fifths
- l2: after each step, each weight also moves towards its first value, by ten times the learning
  rate as a fraction of the distance

    python benchmarks/fine_tuning.py names.txt:rest.txt --from quickstart=runs/quickstart
    python benchmarks/fine_tuning.py a.txt:b.txt --from x=runs/x --replay 0 0.1 --adaptation l2
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import (
    add_options,
    add_overrides,
    add_processor_time,
    add_series,
    argument_parser,
    columns_of,
    format_spread,
    fraction,
    markdown_table,
    print_environment,
    print_results,
    run_main,
    spread,
    text_override,
)
from runs import budgets_in_processor_time, run_to_end
from torch import Tensor

import charlm
from charlm.model.language_model import named_weights
from charlm.runs import prepare
from charlm.runs.automatic.choice import choose
from charlm.runs.experiment import Experiment
from charlm.runs.metrics import read_metrics
from charlm.runs.old_text import ANCESTOR_LOSS
from charlm.runs.warm_start import open_ancestor
from charlm.training.clipping import gradient_group

COLUMNS = ("training", "nats per token", "bits per character", "steps", "seconds", "old text")
RATE_DIVISOR = 2.6
UNFREEZE_EACH = 0.2
L2_PER_RATE = 10.0


@dataclass(frozen=True)
class Case:
    """One kind of training, which is repeated with several seeds.

    Attributes:
        text: Training text.
        held_out: Text that is scored.
        start: Name of the run that the weights come from; `random` for none.
        folder: Its folder; empty for none.
        replay: Fraction of the old text in the training.
        adaptation: Method on top of the automatic settings; empty for none.
    """

    text: str
    held_out: str
    start: str = "random"
    folder: str = ""
    replay: float = 0.0
    adaptation: str = ""


def main() -> None:
    """Train every case with every seed; print one line per run, a table, and JSON."""
    options = arguments()
    for _, _, folder in (named.partition("=") for named in options.starts):
        open_ancestor(Path(folder))  # A wrong path must not end the program after other trainings.
    print_environment(*options.overrides)
    rows = []
    for case in cases(options):
        runs = []
        for seed in options.seeds:
            runs.append(measure(case, seed, options))
            print(f"{describe(case)}, seed {seed}: {json.dumps(runs[-1])}", flush=True)
        numbers = {key: spread(values) for key, values in columns_of(runs).items()}
        rows.append({"case": asdict(case), "scores": numbers})
    print("\n" + markdown_table(COLUMNS, map(cells_of, rows)))
    print_results(overrides=options.overrides, rows=rows)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "texts", nargs="+", metavar="TEXT:HELD_OUT", help="text to train on, and text to score"
    )
    parser.add_argument(
        "--from",
        dest="starts",
        action="append",
        default=[],
        metavar="NAME=RUN",
        help="run that the weights come from; can be repeated",
    )
    add_options(parser, minutes=1.0, seeds=[1])
    add_series(parser, "--replay", [0.0], type=fraction, help="fractions of the old text")
    add_series(parser, "--adaptation", [], choices=MOVES, help="methods to compare")
    add_processor_time(parser)
    add_overrides(parser)
    options = parser.parse_args()
    if any(":" not in texts for texts in options.texts):
        parser.error("TEXT:HELD_OUT: must be two files, divided by a colon")
    if any("=" not in named for named in options.starts):
        parser.error("--from: must be NAME=RUN")
    return options


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield every case of the command line, the trainings from random weights first."""
    for texts in options.texts:
        text, _, held_out = texts.rpartition(":")
        yield Case(text, held_out)
        for named in options.starts:
            start, _, folder = named.partition("=")
            for replay in options.replay:
                yield Case(text, held_out, start, folder, replay)
            for adaptation in options.adaptation:
                replay = options.replay[0]
                yield Case(text, held_out, start, folder, replay, adaptation)


def measure(case: Case, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one network, and return its scores."""
    overrides = [
        text_override(case.text),
        "corpus.mode=records",
        f"training.minutes={options.minutes}",
        f"training.seed={seed}",
        *options.overrides,
    ]
    ancestor = open_ancestor(Path(case.folder)) if case.folder else None
    if ancestor:
        overrides.append(f"training.replay={case.replay}")
    config = choose(overrides, ancestor=ancestor).config
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        experiment = prepare.begin(config, folder, ancestor=ancestor)
        adapt(experiment, case.adaptation)
        with budgets_in_processor_time(enabled=options.processor_time):
            run_to_end(experiment)
        score = charlm.load(folder).perplexity(paths=[case.held_out])
        old = old_text_losses(experiment, folder)
    state = experiment.state
    return {
        "loss_nats": score.loss_nats,
        "bits_per_character": score.bits_per_character,
        "steps": state.step,
        "passes": state.epochs,
        "hidden_size": config.model.hidden_sizes[0],
        "training_seconds": state.seconds,
        **old,
    }


def old_text_losses(experiment: Experiment, folder: Path) -> dict[str, float]:
    """Return the losses on the text of the ancestor: before the training, and of the best model."""
    if experiment.ancestor is None:
        return {}
    best = [line for line in read_metrics(folder) if line.get("is_best")][-1]
    return {
        "old_text_before": experiment.ancestor["start_loss_nats"],
        "old_text_after": best[ANCESTOR_LOSS],
    }


def adapt(experiment: Experiment, adaptation: str) -> None:
    """Let the optimizer of an experiment move its weights by a method of adaptation."""
    if not adaptation:
        return
    weights = [(depth_of(name), tensor) for name, tensor in named_weights(experiment.model)]
    first = [tensor.detach().clone() for _, tensor in weights]
    before = [tensor.detach().clone() for _, tensor in weights]
    move = MOVES[adaptation]

    @torch.no_grad()
    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        rate = optimizer.param_groups[0]["lr"]
        done = experiment.state.fraction_done(experiment.config.training)
        for (depth, tensor), old, start in zip(weights, before, first, strict=True):
            tensor.copy_(move(tensor, old, start, Step(depth, rate, done)))
            old.copy_(tensor)

    experiment.optimizer.register_step_post_hook(after_step)


@dataclass(frozen=True)
class Step:
    """Circumstances of one step of the optimizer.

    Attributes:
        depth: Depth of the weight below the projection: 0 for the projection, 1 for the recurrence,
            2 for the embeddings.
        rate: Learning rate.
        done: Fraction of the training that is done.
    """

    depth: int
    rate: float
    done: float


def discriminative(new: Tensor, old: Tensor, _: Tensor, step: Step) -> Tensor:
    """Return a weight after a step of a smaller rate; the step is proportional to the rate."""
    return old.lerp(new, RATE_DIVISOR**-step.depth)


def unfreezing(new: Tensor, old: Tensor, _: Tensor, step: Step) -> Tensor:
    """Return the old weight for as long as its layer is frozen."""
    return new if step.done >= UNFREEZE_EACH * step.depth else old


def l2(new: Tensor, _: Tensor, first: Tensor, step: Step) -> Tensor:
    """Return a weight that has also moved towards its first value."""
    return new.lerp(first, min(1.0, L2_PER_RATE * step.rate))


MOVES: dict[str, Callable[[Tensor, Tensor, Tensor, Step], Tensor]] = {
    "discriminative": discriminative,
    "unfreezing": unfreezing,
    "l2": l2,
}


def depth_of(name: str) -> int:
    """Return the depth of a weight from its name in files: 1 for every layer of the recurrence."""
    return {"projection": 0, "embedding": 2}.get(gradient_group(name), 1)


def describe(case: Case) -> str:
    """Return a case in words."""
    parts = [Path(case.text).name, f"from {case.start}"]
    if case.folder:
        parts.append(f"replay {case.replay:g}")
    if case.adaptation:
        parts.append(case.adaptation)
    return ", ".join(parts)


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return the cells of one case: medians, and for the loss its range."""
    scores = row["scores"]
    middle = {key: value["median"] for key, value in scores.items()}
    old = ""
    if "old_text_before" in scores:
        old = f"{middle['old_text_before']:.3f} → {middle['old_text_after']:.3f}"
    return [
        describe(Case(**row["case"])),
        format_spread(scores["loss_nats"], 3),
        f"{middle['bits_per_character']:.3f}",
        f"{middle['steps']:,.0f}",
        f"{middle['training_seconds']:.0f}",
        old,
    ]


if __name__ == "__main__":
    run_main(main)
