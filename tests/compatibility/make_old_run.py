"""Make the run folders that test_old_run_folders.py reads, with an earlier charlm.

Run it with the earlier charlm, never with the one under test:

    PYTHONPATH=/path/to/old/checkout python tests/compatibility/make_old_run.py

It uses only the command line of charlm. For the runs `old_run` (a stream of characters, LSTM)
and `old_records` (records, GRU, Muon, exponential averaging) it writes these files beside itself:

    NAME/            the run folder, trained for 24 steps
    NAME.txt         the text that it was trained on
    old_run.state    what `charlm sample --state-out` wrote
    expected.json    how to train the runs again, their texts and scores, and the metrics of the
                     training resumed to 48 steps

A run folder stores the absolute path of its text in config.yaml. The script changes `corpus.text`
to the name of the file alone, which charlm reads relative to the current folder. So a copy of the
run folder and of its text can be resumed in any folder that is the current one. The checksums in
the run folder leave out the path of the text, so this change is allowed.
"""

import hashlib
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import charlm as package

HERE = Path(__file__).parent
# Always the same path, since corpus.json keeps it as the title of the text.
WORK = Path(tempfile.gettempdir()) / "charlm-compatibility"
STEPS, MORE_STEPS = 24, 48
SETTINGS = {
    "model.hidden_size": "16",
    "model.embedding_size": "8",
    "model.output_dropout": "0.1",  # So that resuming depends on the random generator.
    "training.batch_size": "4",
    "training.window": "16",
    "training.warmup_steps": "4",
    # The rate must not depend on the budget, because the resumed training has a larger one.
    "training.schedule": "constant",
    "training.learning_rate": "0.02",
    "training.evaluations": "4",
    "training.precision": "fp32",
    "training.device": "cpu",
    "training.seed": "1",
    "corpus.valid_share": "0.2",
    "checkpoint.save_share": "null",
}
RUNS: dict[str, dict[str, str]] = {
    "old_run": {"model.cell": "lstm"},
    "old_records": {
        "corpus.mode": "records",
        "model.cell": "gru",
        "training.optimizer": "muon",
        "training.averaging": "exponential",
        "training.average_steps": "10",
    },
}
SAMPLES = [
    "--seed 1 --length 60",
    "--seed 2 --length 60 --temperature 0.5 --count 3",
    "--temperature 0 --length 40",
    "--seed 3 --length 60 --top-k 5",
    "--seed 4 --length 60 --top-p 0.8",
    "--seed 5 --length 60 --min-p 0.2 --temperature 1.5",
    "--seed 6 --length 60 --typical 0.8",
    "--seed 7 --length 60 --epsilon 0.05",
    "--seed 8 --length 60 --eta 0.05",
    "--seed 9 --length 60 --repetition-penalty 1.5 --repetition-window 20",
    "--seed 10 --length 60 --no-repeat 2 --temperature 0.3",
    "--seed 11 --length 60 --ban e --ban th",
    "--seed 12 --length 40 --best-of 3 --count 2",
    "--length 20 --beams 4 --count 2",
    "--seed 13 --length 60 --checkpoint last",
]
STREAM_SAMPLES = [
    "--seed 14 --prompt The --length 60 --top-p 0.9 --temperature 0.7",
    "--seed 15 --characters 50",
    "--seed 16 --length 200 --until .",
    "--length 40 --state-in old_run.state",
]
RECORD_SAMPLES = ["--seed 17 --count 4 --novel", "--seed 18 --prompt be --count 3"]
SCORES = [
    "--split valid",
    "--split train",
    "--split valid --checkpoint last",
    "--split train --streams 4",
]


def main() -> None:
    """Write all files."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    expected: dict[str, Any] = {"made_by": environment()}
    for name, settings in RUNS.items():
        expected[name] = make(name, SETTINGS | settings)
    text = json.dumps(expected, indent=1, ensure_ascii=False) + "\n"
    (HERE / "expected.json").write_text(text, encoding="utf-8")
    shutil.rmtree(WORK)


def make(name: str, settings: dict[str, str]) -> dict[str, Any]:
    """Train a run, keep its folder, and return the expected texts, scores and metrics."""
    text = records() if name == "old_records" else prose()
    (WORK / f"{name}.txt").write_text(text, encoding="utf-8")
    training = train_arguments(name, settings)
    charlm(*training, "--steps", STEPS, "--out", name)
    make_movable(WORK / name, f"{name}.txt")
    keep(name)
    if name == "old_run":
        charlm("sample", name, "--seed", 19, "--length", 30, "--state-out", f"{name}.state")
        shutil.copy(WORK / f"{name}.state", HERE)
    more = STREAM_SAMPLES if name == "old_run" else RECORD_SAMPLES
    samples = {options: sample(name, options) for options in SAMPLES + more}
    scores = {options: score(name, options) for options in SCORES}
    charlm("train", "--resume", name, "--steps", MORE_STEPS)
    charlm(*training, "--steps", MORE_STEPS, "--out", "uninterrupted")
    for checkpoint in ("best", "last"):
        if tensors(WORK / name / checkpoint) != tensors(WORK / "uninterrupted" / checkpoint):
            raise SystemExit(f"{name}: {checkpoint}/ differs from an uninterrupted training's")
    lines = [metrics(WORK / folder) for folder in (name, "uninterrupted")]
    resumed, uninterrupted = (
        {line["step"]: line["loss_nats"] for line in run_lines} for run_lines in lines
    )
    steps = resumed.keys() & uninterrupted.keys()
    if max(steps) != MORE_STEPS or any(resumed[step] != uninterrupted[step] for step in steps):
        raise SystemExit(f"{name}: the losses differ from an uninterrupted training's")
    digests = {
        f"{checkpoint}_weights_sha256": weights_sha256(WORK / name / checkpoint)
        for checkpoint in ("best", "last")
    }
    shutil.rmtree(WORK / "uninterrupted")
    return {
        "train": training,
        "steps": STEPS,
        "more_steps": MORE_STEPS,
        "samples": samples,
        "scores": scores,
        "resumed": {"metrics": lines[0], **digests},
    }


def train_arguments(name: str, settings: dict[str, str]) -> list[str]:
    """Return the command that trains a run, without the number of steps and the folder."""
    changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    # An empty file, because charlm chooses settings by itself without --config.
    (WORK / "empty.yaml").write_text("", encoding="utf-8")
    return ["train", "--config", "empty.yaml", "--corpus", f"{name}.txt", *changes]


def charlm(*arguments: object) -> str:
    """Run one command with one thread in the folder `WORK`; return its output."""
    root = Path(package.__file__).parent.parent
    settings = {
        "OMP_NUM_THREADS": "1",
        "CHARLM_CACHE": str(WORK / "cache"),
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(
        [sys.executable, "-m", "charlm", *map(str, arguments)],
        cwd=WORK,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"charlm {' '.join(map(str, arguments))}: {done.stderr}")
    return done.stdout


def make_movable(folder: Path, text: str) -> None:
    """Let config.yaml name the text relative to the current folder."""
    path = folder / "config.yaml"
    config = path.read_text(encoding="utf-8")
    changed, count = re.subn(r"^  text: \S+ ", f"  text: {text} ", config, flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"{path}: {count} lines name the text; expected one")
    path.write_text(changed, encoding="utf-8")


def keep(name: str) -> None:
    """Copy the run folder and its text beside this script, without the lock file."""
    shutil.rmtree(HERE / name, ignore_errors=True)
    shutil.copytree(WORK / name, HERE / name, ignore=shutil.ignore_patterns(".lock"))
    shutil.copy(WORK / f"{name}.txt", HERE)


def sample(name: str, options: str) -> list[dict[str, Any]]:
    """Return the texts that the run samples with these options."""
    lines = charlm("sample", name, *options.split(), "--json").splitlines()
    return [{key: json.loads(line)[key] for key in ("text", "log_probability")} for line in lines]


def score(name: str, options: str) -> dict[str, float]:
    """Return the scores of the run with these options."""
    scores = json.loads(charlm("eval", "perplexity", name, *options.split(), "--json"))
    names = ("loss_nats", "perplexity", "bits_per_character", "bits_per_byte", "accuracy")
    return {key: scores[key] for key in (*names, "tokens", "characters")}


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of every evaluation that do not depend on the clock."""
    names = (
        "step",
        "epochs",
        "tokens",
        "learning_rate",
        "training_loss_nats",
        "gradient_norm",
        "loss_nats",
        "is_best",
    )
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: json.loads(line)[key] for key in names} for line in lines]


def tensors(folder: Path) -> dict[str, bytes]:
    """Return the tensors of a checkpoint by name: type, shape and contents."""
    data = {}
    files = json.loads((folder / "state.json").read_text(encoding="utf-8"))["files"]
    for kind, entry in files.items():
        for name, tensor in safetensors.torch.load_file(folder / entry["file"]).items():
            head = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
            data[f"{kind}.{name}"] = head + tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    return data


def weights_sha256(folder: Path) -> str:
    """Return the checksum of the weights of a checkpoint, in the order of their names."""
    digest = hashlib.sha256()
    for name, data in sorted(tensors(folder).items()):
        if name.startswith("weights."):
            digest.update(name.encode() + b"\n" + data)
    return digest.hexdigest()


def environment() -> dict[str, str]:
    """Return the versions and the processor, on which the last digits depend."""
    root = Path(package.__file__).parent.parent
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "charlm": package.__version__,
        "commit": commit,
        "torch": torch.__version__,
        "processor": processor(),
    }


def processor() -> str:
    """Return the model of the processor and its instruction sets."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor()
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    facts = {line.split(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    names = ("vendor_id", "cpu family", "model", "stepping", "flags")
    return ", ".join(f"{name} {facts.get(name, '')}" for name in names)


def prose() -> str:
    """Return about 3,500 characters of short sentences, the same at each call."""
    draw = random.Random(1).random
    subjects = ["The cat", "A dog", "Every owl", "The old sailor", "Some bees", "My sister"]
    verbs = ["sees", "likes", "finds", "hears", "follows"]
    objects = ["the moon", "a small boat", "bread and butter", "the river", "a song", "the house"]

    def choose(options: list[str]) -> str:
        return options[int(draw() * len(options))]

    sentences = (f"{choose(subjects)} {choose(verbs)} {choose(objects)}." for _ in range(100))
    return "\n".join(sentences) + "\n"


def records() -> str:
    """Return 200 invented names, one per line, the same at each call."""
    draw = random.Random(2).random
    ends = ["n", "ra", "lia", "do", "s", ""]
    syllables = [a + b for a in "bdgklm" for b in "aeiou"]
    names = (
        syllables[int(draw() * 30)] + syllables[int(draw() * 30)] + ends[int(draw() * 6)]
        for _ in range(200)
    )
    return "\n".join(names) + "\n"


if __name__ == "__main__":
    main()
