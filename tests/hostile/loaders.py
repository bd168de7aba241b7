"""A table of every loader of untrusted files: a function that loads bytes, and files it accepts.

The tests of this folder and `make fuzz` share it.
"""

import gzip
import hashlib
import io
import json
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
import safetensors.torch
import torch
from conftest import small_config, train_all, unseal
from reading import opened, resolved

from charlm.api import Run, load, load_labels, load_translator
from charlm.compression.container import FORMAT, MAGIC
from charlm.config.corpus import Corpus
from charlm.config.load import load_config
from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.archives import extract_member
from charlm.data.cards import read_card
from charlm.data.corpus import open_corpus
from charlm.data.labels import split_labels
from charlm.data.resolve import resolve
from charlm.data.sources import open_plain_files
from charlm.data.tokens import encode_text
from charlm.data.vectors import read_vectors
from charlm.data.vocabulary import learn_tokenizer, load_tokenizer
from charlm.errors import CharlmError
from charlm.evaluation.probes.agreement import read_pairs
from charlm.evaluation.sentences import read_sentences
from charlm.export.importing import import_run
from charlm.runs import prepare
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import training_windows
from charlm.runs.folder import load_run
from charlm.runs.verify_weights import check_weights

LEVELS = ("char", "word", "byte", "bpe")
# These load a model or resume a training at every use.
SLOW = (
    "tokenizer.json",
    "run's config.yaml",
    "corpus.json",
    "corpus.json with labels",
    "config.yaml with labels",
    "config.yaml with a decoder",
    "weights with a decoder",
    "state.json",
    "state.json to resume from",
    "metrics.jsonl",
    "weights",
    "imported weights",
    "imported characters",
)
NAMES = (
    *SLOW,
    "config",
    "card",
    *(f"tokenizer of {level}" for level in LEVELS),
    "generation state",
    "vectors",
    "pairs",
    "sentences",
    "compressed",
    "text.gz",
    "text.zst",
    "text.xz",
    "documents.csv",
    "documents.json",
    "documents.jsonl",
    "documents.parquet",
    "pairs.csv",
    "pairs.conll",
    "archive",
    "token cache",
    "token cache's facts",
)
_CHARACTERS = '["a", "b", "\\n"]'
MEMBER, MEMBER_TEXT = "folder/text.txt", b"to be or not to be\n" * 20
DOCUMENTS = [{"text": "To be,\nor not", "id": 1}, {"text": "to be.", "id": 2}]


@dataclass(frozen=True)
class Loader:
    """A loader of one kind of file.

    Attributes:
        load: Loads a file with the given bytes and, if it is accepted, uses it.
        seeds: Valid files.
        with_valid_checksum: Corrects the checksum of a damaged file, so that the code behind the
            check is reached.
    """

    load: Callable[[bytes], object]
    seeds: list[bytes]
    with_valid_checksum: Callable[[bytes], bytes] = bytes


def is_refused(load: Callable[[bytes], object], data: bytes) -> bool:
    """Load a file and return whether it was refused.

    Any exception other than a `CharlmError` with a printable one-line message is raised.
    """
    try:
        load(data)
    except CharlmError as error:
        message = str(error)
        if not message.isprintable() or len(message) > 5_000:
            raise AssertionError(f"not one printable line: {message[:500]!r}") from error
        return True
    return False


def loaders(folder: Path, trained: Path) -> dict[str, Loader]:
    """Return every loader by name.

    Args:
        folder: Folder for the files to load.
        trained: Run folder; a copy of it is used.
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

    def in_run(name: str, read: Callable[[Path], object], run_folder: Path = run_folder) -> Loader:
        path = run_folder / name
        whole = path.read_bytes()

        def load_bytes(data: bytes) -> object:
            path.write_bytes(data)
            try:
                return read(run_folder)
            finally:
                path.write_bytes(whole)

        return Loader(load_bytes, [whole])

    labels_folder = _train_task(folder, "classify")
    decoder_folder = _train_task(folder, "translate")
    state_out = folder / "state.safetensors"
    original.sample(prompt="T", length=8, state_out=state_out)
    text = folder / "text.txt"
    text.write_bytes(MEMBER_TEXT)
    corpus = load_config(None, [f"corpus.text={text}", "corpus.valid_share=0"]).corpus
    part = opened(corpus).parts["train"]
    tokenizers = {level: _learn(level) for level in LEVELS}
    cache = folder / "cache"
    encode = lambda: encode_text(part, tokenizers["char"], mode="stream", cache=cache)  # noqa: E731
    expected = encode().ids.copy()

    def in_cache(suffix: str) -> Loader:
        (path,) = cache.glob(f"*{suffix}")

        def load_bytes(data: bytes) -> None:
            path.write_bytes(data)
            assert np.array_equal(encode().ids, expected)

        return Loader(load_bytes, [path.read_bytes()])

    weights, decoder = _weights_of(run_folder), _weights_of(decoder_folder)
    return {
        "config": Loader(
            in_file("config.yaml", load_config), [(trained / "config.yaml").read_bytes(), _CONFIG]
        ),
        "card": Loader(in_file("card.yaml", read_card), [_CARD]),
        **{
            f"tokenizer of {level}": Loader(
                _use_tokenizer(level), [tokenizers[level].to_json().encode()]
            )
            for level in LEVELS
        },
        "tokenizer.json": in_run("tokenizer.json", _sample),
        "run's config.yaml": in_run("config.yaml", _sample),
        "corpus.json": in_run(
            "corpus.json", lambda run_folder: _load_run(run_folder).perplexity("The cat sat.")
        ),
        "corpus.json with labels": in_run("corpus.json", _predict, labels_folder),
        "config.yaml with labels": in_run("config.yaml", _predict, labels_folder),
        "config.yaml with a decoder": in_run("config.yaml", _translate, decoder_folder),
        "weights with a decoder": Loader(
            _in_checkpoint(decoder_folder, decoder, _translate), [decoder.read_bytes()]
        ),
        "state.json": in_run("best/state.json", _sample),
        "state.json to resume from": in_run("last/state.json", _resume),
        "metrics.jsonl": in_run("metrics.jsonl", _resume),
        "weights": Loader(_in_checkpoint(run_folder, weights, _sample), [weights.read_bytes()]),
        "imported weights": Loader(
            in_file("x.safetensors", lambda path: _import(path, _characters(folder), folder)),
            [safetensors.torch.save(_state_dict())],
        ),
        "imported characters": Loader(
            in_file("characters", lambda path: _import(_saved_state_dict(folder), path, folder)),
            [_CHARACTERS.encode(), b'{"a": 0, "\\n": 2, "b": 1}', b"ab\n"],
        ),
        "generation state": Loader(
            in_file("state", lambda path: original.sample(prompt="", length=4, state_in=path)),
            [state_out.read_bytes()],
        ),
        "vectors": Loader(
            in_file("vectors", lambda path: read_vectors(path, tokenizers["word"], size=2)),
            [b"2 2\nto 0.5 1\nbe 1e-3 -2\n", gzip.compress(b"to 1 2\nbe 3 4\n", mtime=0)],
        ),
        "pairs": Loader(in_file("pairs", read_pairs), [b"the cat is\tthe cat are\r\n\na b\ta c\n"]),
        "sentences": Loader(in_file("sentences", read_sentences), [b"the cat is\r\n\na b\n"]),
        "compressed": Loader(
            original.decompress,
            [original.compress(b"The cat sat on the mat."), original.compress(bytes(300))],
            with_checksum,
        ),
        "text.gz": Loader(in_file("text.gz", _read_text), [gzip.compress(MEMBER_TEXT, mtime=0)]),
        "text.zst": Loader(
            in_file("text.zst", _read_text), [pyarrow.compress(MEMBER_TEXT, "zstd", asbytes=True)]
        ),
        "text.xz": Loader(in_file("text.xz", _read_text), [lzma.compress(MEMBER_TEXT)]),
        "documents.csv": Loader(
            in_file("documents.csv", _read_text),
            [b'text,id\n"to be, or\nnot",1\n', b"id;text\r1;to be\r2;not to be\r"],
        ),
        "documents.json": Loader(
            in_file("documents.json", _read_text), [json.dumps(DOCUMENTS).encode()]
        ),
        "documents.jsonl": Loader(
            in_file("documents.jsonl", _read_text),
            [b"\n".join(json.dumps(document).encode() for document in DOCUMENTS)],
        ),
        "documents.parquet": Loader(in_file("documents.parquet", _read_text), [_parquet()]),
        "pairs.csv": Loader(in_file("pairs.csv", _read_pairs), [b"text,label\ngood,yes\nbad,no\n"]),
        "pairs.conll": Loader(
            in_file("pairs.conll", _read_pairs), [b"Ann NNP B-PER\nsings VBZ O\n\nRain\tO\n"]
        ),
        "archive": Loader(
            in_file("archive", lambda path: extract_member(path, MEMBER, folder / "unpacked.txt")),
            list(_archives()),
        ),
        "token cache": in_cache("ids"),
        "token cache's facts": in_cache("json"),
    }


def _train_task(folder: Path, kind: str) -> Path:
    """Train a model of a task for a step; return its run folder, without checksums."""
    text = folder / "pairs.txt"
    text.write_text("ab\tx\nba\ty\n" * 20, encoding="utf-8")
    config = small_config(text, f"task.kind={kind}", "training.steps=1", "model.hidden_size=4")
    train_all(config, folder / kind)
    unseal(folder / kind)
    return folder / kind


def _translate(run_folder: Path) -> object:
    return load_translator(run_folder, device="cpu").complete("ab", length=3)


def _predict(run_folder: Path) -> object:
    return load_labels(run_folder, device="cpu").predict(["ab"])


def _read_pairs(path: Path) -> object:
    config = load_config(None, [f"corpus.text={path}", "task.kind=classify"])
    return split_labels(open_corpus(resolve(config)))


def _import(weights: Path, characters: Path, folder: Path) -> None:
    """Import a state dict and use the run; a refused one leaves nothing."""
    out = folder / "imported"
    try:
        import_run(weights, cell="gru", tokenizer=characters, out=out, eos="\\n", text="ab\n")
        _sample(out)
    except CharlmError:
        assert not list(folder.glob("*imported*"))
        raise
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _state_dict() -> dict[str, torch.Tensor]:
    return {
        "encoder.weight": torch.eye(3, 2),
        "rnn.weight_ih_l0": torch.ones(6, 2),
        "rnn.weight_hh_l0": torch.ones(6, 2),
        "decoder.weight": torch.eye(3, 2) * 2,
        "decoder.bias": torch.ones(3),
    }


def _saved_state_dict(folder: Path) -> Path:
    path = folder / "valid.safetensors"
    safetensors.torch.save_file(_state_dict(), path)
    return path


def _characters(folder: Path) -> Path:
    path = folder / "characters.json"
    path.write_text(_CHARACTERS, encoding="utf-8")
    return path


def _read_text(path: Path) -> object:
    where = {"id": 1} if path.suffix in (".jsonl", ".csv") else {}
    return open_plain_files([str(path)], resolved(Corpus(where=where)).corpus, False)


def _parquet() -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(DOCUMENTS), file)
    return file.getvalue()


def _load_run(run_folder: Path) -> Run:
    return load(run_folder, device="cpu")


def _sample(run_folder: Path) -> object:
    return _load_run(run_folder).sample(length=5)


def _resume(run_folder: Path) -> None:
    """Resume a training and read its next window, if one is left."""
    config, tokenizer, _ = load_run(run_folder)
    saved = load_checkpoint(run_folder / "last")
    check_weights(saved.weights, config.model, tokenizer.vocabulary_size, place=saved.folder)
    experiment = prepare.resume(run_folder)
    next(training_windows(experiment))
    experiment.lock.release()


def _learn(level: str):
    options = {"vocabulary_size": 262} if level == "bpe" else {}
    return learn_tokenizer([MEMBER_TEXT.decode()], TokenizerSection(level=level, **options))


def _use_tokenizer(level: str) -> Callable[[bytes], object]:
    section = _learn(level).section

    def load_bytes(data: bytes) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return  # The reader of the file refuses it.
        tokenizer = load_tokenizer(text, section)
        ids = tokenizer.encode("to be, or <EOS> \u2603\n")
        assert all(0 <= index < tokenizer.vocabulary_size for index in ids.tolist())
        tokenizer.decode(range(tokenizer.vocabulary_size))
        tokenizer.find_unknown("to \u2603")

    return load_bytes


def _weights_of(run_folder: Path) -> Path:
    state = json.loads((run_folder / "best" / "state.json").read_text(encoding="utf-8"))
    return run_folder / "best" / state["files"]["weights"]["file"]


def _in_checkpoint(
    run_folder: Path, weights: Path, read: Callable[[Path], object]
) -> Callable[[bytes], object]:
    """Return a function that loads a run with other weights and a valid checksum."""
    path, whole = run_folder / "best" / "state.json", weights.read_bytes()
    state = json.loads(path.read_text(encoding="utf-8"))

    def load_bytes(data: bytes) -> object:
        state["files"]["weights"]["sha256"] = hashlib.sha256(data).hexdigest()
        before = path.read_bytes()
        weights.write_bytes(data)
        path.write_text(json.dumps(state), encoding="utf-8")
        try:
            return read(run_folder)
        finally:
            weights.write_bytes(whole)
            path.write_bytes(before)

    return load_bytes


def with_checksum(data: bytes) -> bytes:
    """Return a compressed file with a valid checksum of its contents."""
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
