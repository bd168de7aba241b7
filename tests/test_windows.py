"""What Windows lacks is not needed: a simulation, because no test runs on Windows."""

import os
import subprocess
import sys
from pathlib import Path


def test_commands_run_without_what_only_posix_has(tmp_path):
    options = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning"]
    script = Path(__file__).parent / "without_posix.py"
    done = subprocess.run(
        [sys.executable, *options, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "CHARLM_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": status 0\n") == 13, done.stderr
