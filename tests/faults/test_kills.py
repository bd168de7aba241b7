"""Twenty kills of trainings in processes of their own; `make faults` does two hundred and more."""

import os
import subprocess
import sys
from pathlib import Path

HARNESS = Path(__file__).with_name("harness.py")


def test_a_training_killed_again_and_again_ends_with_the_weights_of_one_left_alone(tmp_path):
    command = [
        sys.executable,
        HARNESS,
        "--kills",
        "20",
        "--variants",
        "stream-char-lstm",
        "records-word-elman",
    ]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("20 kills")
