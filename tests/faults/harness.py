"""Kill trainings and resume them, and compare the results with those of undisturbed trainings.

    python tests/faults/harness.py [--kills 200] [--seed 1] [--variants stream-char-lstm ...]

Each training runs the command line in a fork of this process, which has already imported
everything. A fork is killed by SIGKILL before a call that writes files, with half of a write done;
or at any instant; or it is asked to stop by SIGTERM, SIGHUP or SIGINT, once or twice. Then the checkpoints
are read, and another fork resumes the training.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from conftest import PAIRS, RECORDS, SMALL, TEXT, small_config, train_all
from faults.injection import at_call, hooked, kill_self

from charlm.cli import main as command_line
from charlm.cli import progress  # noqa: F401 - imported once here instead of in every fork.
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.files import LOCK

VARIANTS = [
    "-".join(names) for names in product(("stream", "records"), ("char", "word"), ("elman", "lstm"))
] + [f"{task}-char-lstm" for task in PAIRS]
STEPS = 10
SETTINGS = [
    *SMALL,
    f"training.steps={STEPS}",
    "model.output_dropout=0.2",
    "checkpoint.save_seconds=1.0e-9",
]
SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "SIGINT": [signal.SIGINT],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
}
# A training is killed once in each way, then in ways drawn with these weights.
WAYS = {"at a call": 6, "at an instant": 3, "by a signal": 1}


class Reference(NamedTuple):
    """An undisturbed training.

    Attributes:
        result: Its result, as from `Training.result`.
        calls: Number of calls that wrote files.
        seconds: Duration.
    """

    result: dict[str, Any]
    calls: int
    seconds: float


def text_of(mode: str) -> str:
    """Return a text for a mode, or the pairs of a task."""
    if mode in PAIRS:
        return "".join(f"{source}\t{target}\n" for source, target in PAIRS[mode])
    return TEXT if mode == "stream" else RECORDS.replace("a", "a ")


class Training:
    """A training in its own run folder, continued by one fork after another."""

    def __init__(self, variant: str, folder: Path) -> None:
        mode, level, cell = variant.split("-")
        text = folder / f"{mode}.txt"
        text.write_text(text_of(mode), encoding="utf-8")
        config = folder / "empty.yaml"
        config.touch()
        self.run, self._log = folder / "run", folder / "log.txt"
        overrides = [
            f"task.kind={mode}" if mode in PAIRS else f"corpus.mode={mode}",
            f"tokenizer.level={level}",
            f"model.cell={cell}",
            *SETTINGS,
        ]
        settings = [part for override in overrides for part in ("--set", override)]
        self._begin = [
            *("train", str(text), "--config", str(config), "--out", str(self.run)),
            *settings,
        ]

    def start(self, *, die_at_call: int | None = None, count: Path | None = None) -> int:
        """Begin or resume the training in a fork; return its process id."""
        blocked = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        process = os.fork()
        if process:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return process
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
            status = self._run_command(die_at_call, count)
        except KeyboardInterrupt:
            status = 130
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status)

    def _run_command(self, die_at_call: int | None, count: Path | None) -> int:
        # A resumed training must not depend on the state of the random generator.
        torch.manual_seed(random.SystemRandom().randrange(1 << 30))
        with self._log.open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        arguments = ["train", "--resume", str(self.run)] if self.has_begun() else self._begin
        with hooked(at_call(die_at_call or 0, kill_self)) as calls:
            status = command_line.run(arguments)
        if count is not None:
            count.write_text(str(len(calls)))
        return status

    def has_begun(self) -> bool:
        return (self.run / "config.yaml").is_file()

    def is_over(self) -> bool:
        """Return whether all steps are taken and the last evaluation is done."""
        if not self.has_begun():
            return False
        last = self.checkpoints()["last"]
        return last["step"] == STEPS and last["due_metrics"] is None

    def checkpoints(self) -> dict[str, dict[str, Any]]:
        """Read all checkpoints completely; return their states, with the checksums of weights."""
        has_best = (self.run / "best" / "state.json").is_file()
        names = ("best", "last") if has_best else ("last",)
        return {name: load_checkpoint(self.run / name).state for name in names}

    def result(self) -> dict[str, Any]:
        """Return the facts that must not depend on how often a training was killed."""
        facts = {
            name: {key: fact for key, fact in state.items() if key not in ("seconds", "run")}
            for name, state in self.checkpoints().items()
        }
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        return facts | {"evaluations": [(line["step"], line["loss_nats"]) for line in lines]}

    def log(self) -> str:
        return self._log.read_text()


def warm_up(folder: Path) -> None:
    """Train once in this process, since the first training in a process takes seconds longer."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    train_all(small_config(folder / "text.txt"), folder / "warm_up")


def train_undisturbed(variant: str, folder: Path) -> Reference:
    """Train without a disturbance."""
    folder.mkdir()
    training, count, began = Training(variant, folder), folder / "count", time.monotonic()
    if os.waitpid(training.start(count=count), 0)[1]:
        raise SystemExit(f"{variant}: the undisturbed training failed: {training.log()}")
    return Reference(training.result(), int(count.read_text()), time.monotonic() - began)


def disturb(training: Training, way: str, reference: Reference, draw: random.Random) -> str | None:
    """Run a fork and disturb it; return the kind of disturbance, or None if it ended before."""
    if way == "at a call":
        call = draw.randint(1, max(2, reference.calls // 3))
        status = os.waitpid(training.start(die_at_call=call), 0)[1]
        return way if status == signal.SIGKILL else None
    name = "SIGKILL" if way == "at an instant" else draw.choice(list(SIGNALS))
    process = training.start()
    time.sleep(draw.uniform(0, reference.seconds / 2))
    for number in SIGNALS.get(name, [signal.SIGKILL]):
        os.kill(process, number)
        time.sleep(draw.uniform(0, reference.seconds / 20))
    status = os.waitpid(process, 0)[1]
    signals = {number for numbers in SIGNALS.values() for number in numbers}
    stopped = {0, *(128 + number for number in signals)}
    has_stopped = os.WIFEXITED(status) and os.WEXITSTATUS(status) in stopped
    if status not in (signal.SIGKILL, *signals) and not has_stopped:
        raise SystemExit(f"{name}: status {status}: {training.log()}")
    return None if training.is_over() else f"by {name}"


def ways(draw: random.Random, count: int) -> list[str]:
    """Return ways of killing a training: each one first, then random ones."""
    every = draw.sample(list(WAYS), len(WAYS))
    return (every + draw.choices(list(WAYS), list(WAYS.values()), k=count))[:count]


def kill_and_resume(
    training: Training, reference: Reference, kills: int, draw: random.Random
) -> Counter[str]:
    """Kill and resume a training at most N times, then let it end.

    Returns:
        Number of kills by kind.

    Raises:
        SystemExit: A checkpoint is damaged, or the result differs from the undisturbed one.
    """
    counts = Counter[str]()
    for way in ways(draw, kills):
        kind = disturb(training, way, reference, draw)
        if kind is None:
            break
        counts[kind] += 1
        if not training.has_begun():
            shutil.rmtree(training.run, ignore_errors=True)
        elif training.is_over():
            break
    if not training.is_over() and os.waitpid(training.start(), 0)[1]:
        raise SystemExit(f"cannot be resumed after {dict(counts)}: {training.log()}")
    if training.result() != reference.result:
        raise SystemExit(
            f"after {dict(counts)} the result is\n{training.result()}\nand not\n{reference.result}"
        )
    leftovers = [path for path in training.run.rglob(".*") if path.name != LOCK]
    if leftovers:
        raise SystemExit(f"after {dict(counts)} temporary files are left: {leftovers}")
    return counts


def kill_trainings(options: argparse.Namespace, folder: Path) -> str:
    """Kill trainings of all variants in turn until there were N kills; return a summary."""
    draw, counts, trainings = random.Random(options.seed), Counter[str](), 0
    references: dict[str, Reference] = {}
    while counts.total() < options.kills:
        variant = options.variants[trainings % len(options.variants)]
        place = folder / str(trainings)
        place.mkdir()
        if variant not in references:
            references[variant] = train_undisturbed(variant, place / "undisturbed")
        kills = min(options.kills - counts.total(), options.kills_per_training)
        try:
            counts += kill_and_resume(Training(variant, place), references[variant], kills, draw)
        except SystemExit as error:
            raise SystemExit(f"{variant}: {error}") from None
        trainings += 1
        shutil.rmtree(place)
    kinds = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
    return (
        f"{counts.total()} kills ({kinds}) of {trainings} trainings of {len(references)} variants: "
        "every resumed training ended with the weights of an undisturbed one, bit for bit"
    )


def main() -> None:
    """Kill trainings as often as asked, and print a summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="number of kills in all [200]")
    parser.add_argument("--kills-per-training", type=int, default=8, help="at most [8]")
    parser.add_argument("--seed", type=int, default=1, help="seed of the kills [1]")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        os.environ["CHARLM_CACHE"] = str(Path(folder) / "cache")
        warm_up(Path(folder))
        sys.stdout.write(f"{kill_trainings(options, Path(folder))}\n")


if __name__ == "__main__":
    main()
