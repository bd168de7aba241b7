"""Fuzz every loader of untrusted files with atheris: `make fuzz`.

A loader must accept a file or refuse it with a one-line message, within 10 seconds and 4 GB of
memory. Anything else is a finding, and the file that caused it is kept in fuzz/findings/.

Try: make fuzz SECONDS=60 FUZZ=config
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FINDINGS = ROOT / "fuzz" / "findings"
SECONDS_PER_FILE = 10
MEGABYTES = 4096
LONGEST_BYTES = 1 << 16


def main() -> int:
    """Fuzz one loader or all, each in its own process; return 1 if there is a finding."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("name", nargs="?", help="name of a loader; default: all")
    options.add_argument("--seconds", type=int, default=600, help="seconds per loader")
    options.add_argument(
        "--here", action="store_true", help="fuzz in this process, which then exits"
    )
    arguments = options.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    if arguments.here:
        fuzz(arguments.name, arguments.seconds)
    from hostile.loaders import NAMES

    if arguments.name and arguments.name not in NAMES:
        options.error(f"no loader {arguments.name!r}; there are {', '.join(NAMES)}")
    names = [arguments.name] if arguments.name else NAMES
    failed = [name for name in names if has_finding(name, arguments.seconds)]
    print(f"findings in: {', '.join(failed)}; see {FINDINGS}" if failed else "no findings")
    return bool(failed)


def has_finding(name: str, seconds: int) -> bool:
    """Fuzz a loader in another process, print the result, and return whether it failed."""
    command = [sys.executable, __file__, name, "--seconds", str(seconds), "--here"]
    ended = subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, check=False)
    lines = ended.stdout.decode(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.startswith("Done ")), "ended early")
    print(f"{name}: {'FINDING' if ended.returncode else 'no finding'}; {last}", flush=True)
    if ended.returncode:
        print("\n".join(lines[-60:]), flush=True)
    return ended.returncode != 0


def fuzz(name: str, seconds: int) -> None:
    """Fuzz a loader until the time is over or it fails; this function never returns."""
    import atheris

    with atheris.instrument_imports(include=["charlm"]):
        from hostile.loaders import is_refused, loaders
    import torch
    from conftest import TEXT, small_config, train_all

    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="charlm-fuzz-"))
    os.environ["CHARLM_CACHE"] = str(folder / "cache")
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    train_all(
        small_config(text, "model.hidden_size=4", "model.embedding_size=2", "training.steps=4"),
        folder / "trained",
    )
    (folder / "work").mkdir()
    (folder / "seeds").mkdir()
    loader = loaders(folder / "work", folder / "trained")[name]
    for number, seed in enumerate(loader.seeds):
        (folder / "seeds" / str(number)).write_bytes(seed)
    FINDINGS.mkdir(exist_ok=True)

    def fuzz_one(data: bytes) -> None:
        is_refused(loader.load, data)
        if (corrected := loader.with_valid_checksum(data)) != data:
            is_refused(loader.load, corrected)

    options = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_PER_FILE}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-max_len={LONGEST_BYTES}",
        f"-artifact_prefix={FINDINGS}/{name.replace(' ', '-')}-",
        "-print_final_stats=0",
        str(folder / "seeds"),
    ]
    atheris.Setup(options, fuzz_one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
