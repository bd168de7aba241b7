"""Kill trainings and take them up again, until their weights are to be compared with those of undisturbed ones.

Usage: python tests/faults/harness.py [--kills 200] [--seed 1] [--variants stream-char-lstm records-word-elman]

A child is a fork of this process, which has imported everything: it runs the command line. It is killed by SIGKILL,
just before a call that changes files, half of a write being done, or at any instant; or asked to stop by SIGTERM, by
SIGINT once, or twice. Then the checkpoints are read, and another child goes on.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from conftest import RECORDS, SMALL, TEXT, small_config, train_all
from faults.injection import at_call, kill_self, watched

from charlm.cli import main as command_line
from charlm.cli import progress  # noqa: F401 - what each child would import, and then do for the first time
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.files import LOCK

VARIANTS = [
    "-".join(names) for names in product(("stream", "records"), ("char", "word"), ("elman", "lstm"))
]
STEPS = 10
SETTINGS = [
    *SMALL,
    f"training.steps={STEPS}",
    "model.dropout=0.2",
    "checkpoint.save_seconds=1.0e-9",
]
SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "SIGINT": [signal.SIGINT],
    "SIGINT twice": [signal.SIGINT, signal.SIGINT],
}
HOW = ["a call"] * 6 + ["an instant"] * 3 + ["a signal"]
MOST_KILLS = 8  # Of one training.
Undisturbed = tuple[dict[str, Any], int, float]


class Training:
    """One training in a folder of its own, in as many processes as it takes."""

    def __init__(self, variant: str, folder: Path) -> None:
        mode, level, cell = variant.split("-")
        text = folder / f"{mode}.txt"
        text.write_text(TEXT if mode == "stream" else RECORDS.replace("a", "a "), encoding="utf-8")
        changes = [
            f"corpus.mode={mode}",
            f"tokenizer.level={level}",
            f"model.cell={cell}",
            *SETTINGS,
        ]
        (folder / "empty.yaml").touch()
        self.run, self._log = folder / "run", folder / "log.txt"
        self._begin = [
            "train",
            str(text),
            "--config",
            str(folder / "empty.yaml"),
            "--out",
            str(self.run),
        ]
        self._begin += [part for change in changes for part in ("--set", change)]

    def start(self, *, die_at_call: int | None = None, count: Path | None = None) -> int:
        """Begin, or go on, in a child; return its process id."""
        stops = {signal.SIGINT, signal.SIGTERM}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        child = os.fork()
        if child:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return child
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stops)
            status = self._live(die_at_call, count)
        except KeyboardInterrupt:
            status = 130
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status)

    def _live(self, die_at_call: int | None, count: Path | None) -> int:
        torch.manual_seed(
            random.SystemRandom().randrange(1 << 30)
        )  # What is taken up must not depend on it.
        with self._log.open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        arguments = ["train", "--resume", str(self.run)] if self.has_begun() else self._begin
        with watched(at_call(die_at_call or 0, kill_self)) as calls:
            status = command_line.run(arguments)
        if count is not None:
            count.write_text(str(len(calls)))
        return status

    def has_begun(self) -> bool:
        return (self.run / "config.yaml").is_file()

    def checkpoints(self) -> dict[str, dict[str, Any]]:
        """Return the facts of the checkpoints that are there, the weights' checksums too, each read whole."""
        there = [
            which
            for which in ("best", "last")
            if which == "last" or (self.run / which / "state.json").is_file()
        ]
        return {which: load_checkpoint(self.run / which).state for which in there}

    def end(self) -> dict[str, Any]:
        """Return what must be the same, however often a training was killed."""
        facts = {
            which: {name: fact for name, fact in state.items() if name not in ("seconds", "run")}
            for which, state in self.checkpoints().items()
        }
        lines = [json.loads(line) for line in (self.run / "metrics.jsonl").read_text().splitlines()]
        return facts | {"evaluations": [(line["step"], line["loss_nats"]) for line in lines]}

    def is_over(self) -> bool:
        return self.has_begun() and self.checkpoints()["last"]["step"] == STEPS

    def log(self) -> str:
        return self._log.read_text()


def warm_up(folder: Path) -> None:
    """Do for the first time, which takes seconds, what each child would do."""
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    train_all(small_config(folder / "text.txt"), folder / "warm")


def undisturbed(variant: str, folder: Path) -> Undisturbed:
    """Return the end of a training that nothing disturbs, its calls and its seconds."""
    training, count, began = Training(variant, folder), folder / "count", time.monotonic()
    if os.waitpid(training.start(count=count), 0)[1]:
        raise SystemExit(f"{variant}: cannot be trained at all: {training.log()}")
    return training.end(), int(count.read_text()), time.monotonic() - began


def disturb(
    training: Training, how: str, calls: int, seconds: float, dice: random.Random
) -> str | None:
    """Run a child and disturb it; return how, or None if it came to its end before."""
    if how == "a call":
        child = training.start(die_at_call=dice.randint(1, max(2, calls // 3)))
        return "before a call" if os.waitpid(child, 0)[1] == signal.SIGKILL else None
    child, name = training.start(), "SIGKILL" if how == "an instant" else dice.choice(list(SIGNALS))
    time.sleep(dice.uniform(0, seconds / 2))
    for number in SIGNALS.get(name, [signal.SIGKILL]):
        os.kill(child, number)
        time.sleep(dice.uniform(0, seconds / 20))
    status = os.waitpid(child, 0)[1]
    interrupted = os.WIFEXITED(status) and os.WEXITSTATUS(status) in (0, 130)
    if status not in (signal.SIGKILL, signal.SIGTERM) and not interrupted:
        raise SystemExit(f"{name}: status {status}: {training.log()}")
    return None if training.is_over() else f"by {name}"


def survive(
    variant: str, folder: Path, wanted: Undisturbed, most: int, dice: random.Random
) -> Counter[str]:
    """Kill and resume a training a few times, then let it end; return how often it was killed in which way.

    Raises:
        SystemExit: A checkpoint is not whole, or the end is not that of the undisturbed training.
    """
    end, calls, seconds = wanted
    training, kills = Training(variant, folder), Counter[str]()
    while kills.total() < most:
        how = disturb(training, dice.choice(HOW), calls, seconds, dice)
        if how is None:
            break
        kills[how] += 1
        if not training.has_begun():
            shutil.rmtree(training.run, ignore_errors=True)
        elif training.is_over():
            break
    if not (training.has_begun() and training.is_over()) and os.waitpid(training.start(), 0)[1]:
        raise SystemExit(f"{variant}: cannot be taken up after {dict(kills)}: {training.log()}")
    if training.end() != end:
        raise SystemExit(
            f"{variant}: after {dict(kills)} it ended elsewhere:\n{training.end()}\nand not\n{end}"
        )
    leftovers = [path for path in training.run.rglob(".*") if path.name != LOCK]
    if leftovers:
        raise SystemExit(f"{variant}: after {dict(kills)} these are left: {leftovers}")
    return kills


def main() -> None:
    """Kill as often as is asked for, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    dice, kills, trainings, began = random.Random(given.seed), Counter[str](), 0, time.monotonic()
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if Path("/dev/shm").is_dir() else None
    ) as place:
        os.environ["CHARLM_CACHE"] = str(Path(place) / "cache")
        warm_up(Path(place))
        wanted = {}
        while kills.total() < given.kills:
            variant = given.variants[trainings % len(given.variants)]
            folder = Path(place) / str(trainings)
            folder.mkdir()
            if variant not in wanted:
                (folder / "whole").mkdir()
                wanted[variant] = undisturbed(variant, folder / "whole")
            left = given.kills - kills.total()
            kills += survive(variant, folder, wanted[variant], min(left, MOST_KILLS), dice)
            trainings += 1
            shutil.rmtree(folder)
    told = ", ".join(f"{number} {how}" for how, number in kills.most_common())
    sys.stdout.write(
        f"{kills.total()} kills ({told}) of {trainings} trainings of {len(wanted)} kinds: each was taken up, and ended "
        f"with the weights of one that was left alone, to the bit; {time.monotonic() - began:.0f} s\n"
    )


if __name__ == "__main__":
    main()
