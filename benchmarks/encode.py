"""How fast a text in many files becomes ids on disk, by several processes, and in how much memory.

Files are made of the corpus python-source, over and over. Encoding is timed from the opened corpus on, the vocabulary
learnt from the first file; what opening and checking the files takes is told beside it. Subwords are compared with
Hugging Face's tokenizers alone on as many threads, which reads the same files and keeps nothing; the two in turn.

    python benchmarks/encode.py --gigabytes 2 --files 100 --workers 2
    python benchmarks/encode.py --level bpe --gigabytes 0.2 --files 20 --workers 2
"""

import sys

from charlm.config.schema import Config
from charlm.data.resolve import resolve

sys.path.pop(0)  # This folder: its tokenize.py would hide the standard library's.

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

from charlm.config.load import load_config
from charlm.config.schema import Corpus
from charlm.data.cards import build_corpus
from charlm.data.corpus import open_corpus
from charlm.data.tokenizer import Tokenizer, learn_tokenizer
from charlm.data.tokens import encode_text

POLL_SECONDS = 0.05
DOCUMENT_BYTES = (
    1 << 12
)  # What the library alone is given: it is slower on longer ones, and on shorter ones.


def main() -> None:
    """Make the files, encode them, print a table and all as JSON."""
    given = arguments()
    os.environ["RAYON_NUM_THREADS"] = str(
        given.workers
    )  # Before the library begins: of this process.
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        files = make(folder / "texts", round(given.gigabytes * 1e9 / given.files), given.files)
        section = load_config(None, [f"tokenizer.level={given.level}"]).tokenizer
        first = files[0].read_text(encoding="utf-8")
        tokenizer = learn_tokenizer([first], section)
        began = time.perf_counter()
        text = open_corpus(
            resolve(Config(corpus=Corpus(text=(str(folder / "texts"),), valid_share=0.0)))
        ).parts["train"]
        opened = time.perf_counter() - began
        rows = []
        for number in range(given.repeats):
            with Memory() as memory:
                began = time.perf_counter()
                counts = encode_text(
                    text,
                    tokenizer,
                    mode="stream",
                    cache=folder / f"ids-{number}",
                    workers=given.workers,
                ).counts
                seconds = time.perf_counter() - began
            row = {
                "seconds": seconds,
                "megabytes_a_second": text.size / seconds / 1e6,
                "peak_bytes": memory.peak,
            }
            if given.level in ("bpe", "word"):
                row["library_megabytes_a_second"] = (
                    text.size / library_alone(tokenizer, files) / 1e6
                )
            rows.append(row)
            print(" ".join(f"{name} {value:,.1f}" for name, value in row.items()), flush=True)
            for file in (folder / f"ids-{number}").iterdir():
                file.unlink()
    report(given, text.size, counts.tokens, opened, rows)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--level", choices=["char", "byte", "word", "bpe"], default="char")
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where there is room for twice the text")
    return parser.parse_args()


def make(folder: Path, size: int, count: int) -> list[Path]:
    """Write files of about `size` bytes, none of which is like another."""
    source = build_corpus("python-source", to=folder.parent / "source.txt").read_bytes()
    whole = source * (size // len(source) + 2)
    folder.mkdir()
    files = []
    for number in range(count):
        start = whole.index(b"\n", number * len(source) // count) + 1
        files.append(folder / f"{number:04}.txt")
        files[-1].write_bytes(whole[start : whole.index(b"\n", start + size - 100) + 1])
    return files


def library_alone(tokenizer: Tokenizer, files: list[Path]) -> float:
    """Return the seconds that the library takes for the texts, given to it in documents."""
    began = time.perf_counter()
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        documents, size = [[]], 0
        for line in lines:
            if size >= DOCUMENT_BYTES:
                documents.append([])
                size = 0
            documents[-1].append(line)
            size += len(line)
        tokenizer.library.encode_batch_fast(list(map("".join, documents)), add_special_tokens=False)
    return time.perf_counter() - began


class Memory:
    """The most memory that this process and those that it starts hold at once, looked at now and then."""

    def __init__(self) -> None:
        """Begin with none."""
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Memory":
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(POLL_SECONDS):
            processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            self.peak = max(self.peak, sum(map(resident, processes)))


def resident(process: int | None) -> int:
    """Return the bytes that a process holds, its share of what several do counted once."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0  # It is over.
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def report(
    given: argparse.Namespace, size: int, tokens: int, opened: float, rows: list[dict[str, float]]
) -> None:
    """Print the medians."""
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(
        f"\n{given.level}, {given.files} files, {size / 1e9:.2f} GB, {tokens:,} tokens, {given.workers} processes: "
        f"{median['megabytes_a_second']:.0f} MB/s, at most {median['peak_bytes'] / 1e9:.2f} GB of memory; "
        f"opened and checked in {opened:.1f} s"
    )
    if "library_megabytes_a_second" in median:
        share = median["megabytes_a_second"] / median["library_megabytes_a_second"]
        print(
            f"the library alone: {median['library_megabytes_a_second']:.1f} MB/s; charlm: {share:.2f} of it"
        )
    print(
        json.dumps(
            {
                "level": given.level,
                "bytes": size,
                "files": given.files,
                "workers": given.workers,
                "tokens": tokens,
                "opened_seconds": opened,
                "runs": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
