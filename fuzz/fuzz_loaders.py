"""Fuzz every loader of untrusted files with atheris, which searches for inputs that reach new code.

A loader must accept a file or reject it with an error of one line, within 10 seconds and 4 GB of
memory. Anything else is a finding, and the file that caused it is saved in fuzz/findings/.

    make fuzz SECONDS=60 FUZZ=config
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FINDINGS = ROOT / "fuzz" / "findings"
MAX_SECONDS_PER_INPUT = 10
MAX_MEGABYTES = 4096
MAX_INPUT_BYTES = 1 << 16
SHOWN_LINES = 60


def main() -> int:
    """Fuzz the named loader or all, each in its own process; return 1 if there is a finding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="loader [all]")
    parser.add_argument("--seconds", type=int, default=600, help="time for each loader [600]")
    parser.add_argument(
        "--here", action="store_true", help="fuzz in this process, which then exits"
    )
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    if options.here:
        fuzz(options.name, options.seconds)
    from hostile.loaders import NAMES

    if options.name and options.name not in NAMES:
        parser.error(f"name: must be one of {', '.join(NAMES)}, got {options.name!r}")
    names = [options.name] if options.name else NAMES
    findings = [name for name in names if has_finding(name, options.seconds)]
    print(f"findings in: {', '.join(findings)}; see {FINDINGS}" if findings else "no findings")
    return bool(findings)


def has_finding(name: str, seconds: int) -> bool:
    """Fuzz a loader in another process, print the result, return whether there is a finding."""
    command = [sys.executable, __file__, name, "--seconds", str(seconds), "--here"]
    ended = subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, check=False)
    lines = ended.stdout.decode(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.startswith("Done ")), "ended early")
    print(f"{name}: {'FINDING' if ended.returncode else 'no finding'}; {last}", flush=True)
    if ended.returncode:
        print("\n".join(lines[-SHOWN_LINES:]), flush=True)
    return ended.returncode != 0


def fuzz(name: str, seconds: int) -> None:
    """Fuzz a loader until the time is over or there is a finding; then end the process."""
    import atheris

    with atheris.instrument_imports(include=["charlm"]):
        from hostile.loaders import is_refused, loaders
    folder = Path(tempfile.mkdtemp(prefix="charlm-fuzz-"))
    train_model(folder)
    for subfolder in ("work", "seeds"):
        (folder / subfolder).mkdir()
    loader = loaders(folder / "work", folder / "trained")[name]
    for index, seed in enumerate(loader.seeds):
        (folder / "seeds" / str(index)).write_bytes(seed)
    FINDINGS.mkdir(exist_ok=True)

    def test_input(data: bytes) -> None:
        is_refused(loader.load, data)
        if (corrected := loader.with_valid_checksum(data)) != data:
            is_refused(loader.load, corrected)

    atheris.Setup(
        [sys.argv[0], *fuzzer_arguments(name, seconds), str(folder / "seeds")], test_input
    )
    atheris.Fuzz()


def train_model(folder: Path) -> None:
    """Train the small model whose files some loaders read, to the subfolder `trained`."""
    import torch
    from conftest import TEXT, small_config, train_all

    torch.set_num_threads(1)
    os.environ["CHARLM_CACHE"] = str(folder / "cache")
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    sizes = ["model.hidden_size=4", "model.embedding_size=2", "training.steps=4"]
    train_all(small_config(text, *sizes), folder / "trained")


def fuzzer_arguments(name: str, seconds: int) -> list[str]:
    """Return the limits and the place of findings as arguments of libFuzzer."""
    return [
        f"-max_total_time={seconds}",
        f"-timeout={MAX_SECONDS_PER_INPUT}",
        f"-rss_limit_mb={MAX_MEGABYTES}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={FINDINGS}/{name.replace(' ', '-')}-",
        "-print_final_stats=0",
    ]


if __name__ == "__main__":
    sys.exit(main())
