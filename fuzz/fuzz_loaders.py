"""Try every loader of files with bytes that reach ever more of its code, by atheris: `make fuzz`.

A loader accepts what it is given or refuses it in one plain line, within seconds and a few hundred megabytes; whatever
else it does is a finding, and the bytes that made it do so are kept in fuzz/findings/.

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
SECONDS_PER_FILE, MEGABYTES, LONGEST_BYTES = 10, 4096, 1 << 16


def main() -> int:
    """Fuzz the loaders that are named, each in a process of its own; return 1 if there is a finding."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("name", nargs="?", help="of one loader; by default all")
    options.add_argument("--seconds", type=int, default=600, help="for each loader")
    options.add_argument("--here", action="store_true", help="in this process, which ends with it")
    given = options.parse_args()
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    if given.here:
        fuzz(given.name, given.seconds)
    from hostile.loaders import NAMES

    if given.name and given.name not in NAMES:
        options.error(f"no loader {given.name!r}; there are {', '.join(NAMES)}")
    found = [
        name for name in ([given.name] if given.name else NAMES) if has_finding(name, given.seconds)
    ]
    print(f"findings in: {', '.join(found)}; see {FINDINGS}" if found else "no findings")
    return bool(found)


def has_finding(name: str, seconds: int) -> bool:
    """Fuzz a loader in another process and print what it came to."""
    command = [sys.executable, __file__, name, "--seconds", str(seconds), "--here"]
    ended = subprocess.run(command, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, check=False)
    lines = ended.stdout.decode(errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.startswith("Done ")), "ended early")
    print(f"{name}: {'FINDING' if ended.returncode else 'no finding'}; {last}", flush=True)
    if ended.returncode:
        print("\n".join(lines[-60:]), flush=True)
    return ended.returncode != 0


def fuzz(name: str, seconds: int) -> None:
    """Fuzz a loader until the time is over or there is a finding; never return."""
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
    for made in ("work", "seeds"):
        (folder / made).mkdir()
    loader = loaders(folder / "work", folder / "trained")[name]
    for number, seed in enumerate(loader.seeds):
        (folder / "seeds" / str(number)).write_bytes(seed)
    FINDINGS.mkdir(exist_ok=True)

    def try_one(data: bytes) -> None:
        is_refused(loader.load, data)
        if (resealed := loader.resealed(data)) != data:
            is_refused(loader.load, resealed)

    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS_PER_FILE}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-max_len={LONGEST_BYTES}",
        f"-artifact_prefix={FINDINGS}/{name.replace(' ', '-')}-",
        "-print_final_stats=0",
        str(folder / "seeds"),
    ]
    atheris.Setup(arguments, try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
