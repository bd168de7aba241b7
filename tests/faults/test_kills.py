"""Ten kills of trainings in their own processes; `make faults` does 240."""

import os
import subprocess
import sys
from pathlib import Path

HARNESS = Path(__file__).with_name("harness.py")


def test_killed_and_resumed_trainings_end_with_the_weights_of_undisturbed_ones():
    options = ["--kills", "10", "--kills-per-training", "5"]
    variants = ["--variants", "stream-char-lstm", "classify-char-lstm"]
    variants += ["tag-char-lstm", "translate-char-lstm"]
    done = subprocess.run(
        [sys.executable, HARNESS, *options, *variants],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10 kills")
