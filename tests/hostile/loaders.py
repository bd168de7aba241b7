"""Every loader of files that a stranger may have written: what it does with bytes, and files that it accepts.

The tests here and `make fuzz` go through this one table.
"""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
from conftest import unseal
from reading import opened

from charlm.api import Run, load
from charlm.compression.container import FORMAT, MAGIC
from charlm.config.load import load_config
from charlm.config.schema import Corpus
from charlm.config.schema import Tokenizer as TokenizerSection
from charlm.data.cards import read_card
from charlm.data.fetching import unpack
from charlm.data.sources import open_plain_files
from charlm.data.tokenizer import learn_tokenizer, load_tokenizer
from charlm.data.tokens import encode_text
from charlm.data.vectors import read_vectors
from charlm.errors import CharlmError
from charlm.evaluation.probes.agreement import read_pairs
from charlm.evaluation.sentences import read_sentences
from charlm.runs import prepare
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import training_windows
from charlm.runs.folder import load_run
from charlm.runs.verify import check_weights

LEVELS = ("char", "word", "byte", "bpe")
# Each use of these loads a model or takes up a training.
SLOW = (
    "tokenizer.json",
    "run's config.yaml",
    "corpus.json",
    "state.json",
    "state.json to resume from",
    "metrics.jsonl",
    "weights",
)
NAMES = (
    *SLOW,
    "config",
    "card",
    *(f"tokenizer of {level}" for level in LEVELS),
    "place",
    "vectors",
    "pairs",
    "sentences",
    "compressed",
    "text.gz",
    "text.zst",
    "documents.jsonl",
    "documents.parquet",
    "archive",
    "token cache",
    "token cache's facts",
)
MEMBER, MEMBER_TEXT = "folder/text.txt", b"to be or not to be\n" * 20
DOCUMENTS = [{"text": "To be,\nor not", "id": 1}, {"text": "to be.", "id": 2}]


@dataclass(frozen=True)
class Loader:
    """What reads a file.

    Attributes:
        load: Reads and, where it is accepted, uses a file of these bytes.
        seeds: Files that it accepts.
        resealed: Makes the checksums right that a damaged file has wrong, so that what is behind them is reached.
    """

    load: Callable[[bytes], object]
    seeds: list[bytes]
    resealed: Callable[[bytes], bytes] = bytes


def is_refused(load: Callable[[bytes], object], data: bytes) -> bool:
    """Load a file; return whether it was refused. Whatever but a refusal in one plain line is raised."""
    try:
        load(data)
    except CharlmError as error:
        message = str(error)
        if not message.isprintable() or len(message) > 5_000:
            raise AssertionError(f"the message is no plain line: {message[:500]!r}") from error
        return True
    return False


def loaders(folder: Path, trained: Path) -> dict[str, Loader]:
    """Return every loader by name.

    Args:
        folder: Where files are written.
        trained: A run folder, which is copied.
    """
    original = load(trained, device="cpu")
    run_folder = folder / "run"
    shutil.copytree(trained, run_folder)
    unseal(run_folder)

    def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def load_bytes(data: bytes) -> object:
            path = folder / name
            path.write_bytes(data)
            return read(path)

        return load_bytes

    def in_run(name: str, read: Callable[[Path], object]) -> Loader:
        path = run_folder / name
        whole = path.read_bytes()

        def load_bytes(data: bytes) -> object:
            path.write_bytes(data)
            try:
                return read(run_folder)
            finally:
                path.write_bytes(whole)

        return Loader(load_bytes, [whole])

    state_out = folder / "place.safetensors"
    original.sample(prompt="T", length=8, state_out=state_out)
    text = folder / "text.txt"
    text.write_bytes(MEMBER_TEXT)
    corpus = load_config(None, [f"corpus.text={text}", "corpus.valid_share=0"]).corpus
    part = opened(corpus).parts["train"]
    learnt = {level: _learnt(level) for level in LEVELS}
    cache = folder / "cache"
    encode = lambda: encode_text(part, learnt["char"], mode="stream", cache=cache)  # noqa: E731
    expected = encode().ids.copy()

    def read_cache(kind: str) -> Loader:
        (path,) = cache.glob(f"*{kind}")

        def load_bytes(data: bytes) -> None:
            path.write_bytes(data)
            assert np.array_equal(encode().ids, expected)

        return Loader(load_bytes, [path.read_bytes()])

    weights = _weights_of(run_folder)
    return {
        "config": Loader(
            in_file("config.yaml", load_config), [(trained / "config.yaml").read_bytes(), _CONFIG]
        ),
        "card": Loader(in_file("card.yaml", read_card), [_CARD]),
        **{
            f"tokenizer of {level}": Loader(
                _use_tokenizer(level), [learnt[level].to_json().encode()]
            )
            for level in LEVELS
        },
        "tokenizer.json": in_run("tokenizer.json", _write_some),
        "run's config.yaml": in_run("config.yaml", _write_some),
        "corpus.json": in_run(
            "corpus.json", lambda run_folder: _opened(run_folder).perplexity("The cat sat.")
        ),
        "state.json": in_run("best/state.json", _write_some),
        "state.json to resume from": in_run("last/state.json", _resume),
        "metrics.jsonl": in_run("metrics.jsonl", _resume),
        "weights": Loader(_in_checkpoint(run_folder, weights), [weights.read_bytes()]),
        "place": Loader(
            in_file("place", lambda path: original.sample(prompt="", length=4, state_in=path)),
            [state_out.read_bytes()],
        ),
        "vectors": Loader(
            in_file("vectors", lambda path: read_vectors(path, learnt["word"], size=2)),
            [b"2 2\nto 0.5 1\nbe 1e-3 -2\n", gzip.compress(b"to 1 2\nbe 3 4\n", mtime=0)],
        ),
        "pairs": Loader(in_file("pairs", read_pairs), [b"the cat is\tthe cat are\r\n\na b\ta c\n"]),
        "sentences": Loader(in_file("sentences", read_sentences), [b"the cat is\r\n\na b\n"]),
        "compressed": Loader(
            original.decompress,
            [original.compress(b"The cat sat on the mat."), original.compress(bytes(300))],
            _sealed,
        ),
        "text.gz": Loader(in_file("text.gz", _read_text), [gzip.compress(MEMBER_TEXT, mtime=0)]),
        "text.zst": Loader(
            in_file("text.zst", _read_text), [pyarrow.compress(MEMBER_TEXT, "zstd", asbytes=True)]
        ),
        "documents.jsonl": Loader(
            in_file("documents.jsonl", _read_text),
            [b"\n".join(json.dumps(each).encode() for each in DOCUMENTS)],
        ),
        "documents.parquet": Loader(in_file("documents.parquet", _read_text), [_parquet()]),
        "archive": Loader(
            in_file("archive", lambda path: unpack(path, MEMBER, folder / "unpacked.txt")),
            list(_archives()),
        ),
        "token cache": read_cache("ids"),
        "token cache's facts": read_cache("json"),
    }


def _read_text(path: Path) -> object:
    return open_plain_files(
        [str(path)], Corpus(where={"id": 1} if path.suffix == ".jsonl" else {}), False
    )


def _parquet() -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(DOCUMENTS), file)
    return file.getvalue()


def _opened(run_folder: Path) -> Run:
    return load(run_folder, device="cpu")


def _write_some(run_folder: Path) -> object:
    return _opened(run_folder).sample(length=5)


def _resume(run_folder: Path) -> None:
    """Take up a training, and take a step if there is one left."""
    config, tokenizer, _ = load_run(run_folder)
    saved = load_checkpoint(run_folder / "last")
    check_weights(saved.weights, config.model, tokenizer.vocabulary_size, place=saved.folder)
    experiment = prepare.resume(run_folder)
    next(training_windows(experiment))
    experiment.lock.release()


def _learnt(level: str):
    options = {"vocabulary_size": 262} if level == "bpe" else {}
    return learn_tokenizer([MEMBER_TEXT.decode()], TokenizerSection(level=level, **options))


def _use_tokenizer(level: str) -> Callable[[bytes], object]:
    section = _learnt(level).section

    def load_bytes(data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return  # Whoever reads the file tells so.
        tokenizer = load_tokenizer(text, section)
        ids = tokenizer.encode("to be, or <EOS> \u2603\n")
        assert all(0 <= index < tokenizer.vocabulary_size for index in ids.tolist())
        tokenizer.decode(range(tokenizer.vocabulary_size))
        tokenizer.find_unknown("to \u2603")

    return load_bytes


def _weights_of(run_folder: Path) -> Path:
    state = json.loads((run_folder / "best" / "state.json").read_text(encoding="utf-8"))
    return run_folder / "best" / state["files"]["weights"]["file"]


def _in_checkpoint(run_folder: Path, weights: Path) -> Callable[[bytes], object]:
    """Return what loads a run with weights of these bytes, whose checksum is right."""
    path, whole = run_folder / "best" / "state.json", weights.read_bytes()
    state = json.loads(path.read_text(encoding="utf-8"))

    def load_bytes(data: bytes) -> object:
        state["files"]["weights"]["sha256"] = hashlib.sha256(data).hexdigest()
        before = path.read_bytes()
        weights.write_bytes(data)
        path.write_text(json.dumps(state), encoding="utf-8")
        try:
            return _write_some(run_folder)
        finally:
            weights.write_bytes(whole)
            path.write_bytes(before)

    return load_bytes


def _sealed(data: bytes) -> bytes:
    """Return a compressed file with the checksum of what it holds."""
    head = len(MAGIC) + 5
    return MAGIC + bytes([FORMAT]) + zlib.crc32(data[head:]).to_bytes(4, "little") + data[head:]


def _archives():
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as opened:
            member = tarfile.TarInfo(MEMBER)
            member.size = len(MEMBER_TEXT)
            opened.addfile(member, io.BytesIO(MEMBER_TEXT))
        yield file.getvalue()
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as opened:
            opened.writestr(MEMBER, MEMBER_TEXT)
        yield file.getvalue()


_CONFIG = b"""\
corpus: {text: [a.txt, b.txt], mode: records, valid_share: 0.1}
tokenizer: {level: word, vocabulary_size: 100}
model:
  cell: {kind: lstm, peepholes: [input, output]}
  hidden_size: [8, 8]
  adaptive_cutoffs: [20, 50]
training: {steps: 10, learning_rate: 3e-4, device: 'cuda:0'}
"""
_CARD = b"""\
title: A text
language: English
licence: none
source: nowhere
kind: url
url: https://example.org/text.zip
sha256: abababababababababababababababababababababababababababababababab
members: {train: a.txt, valid: b.txt}
mode: stream
"""
