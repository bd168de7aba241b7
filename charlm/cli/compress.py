"""`charlm compress` and `charlm decompress`: files coded with a model's probabilities."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.bars import bar_of_total
from charlm.cli.loading import load
from charlm.cli.options import (
    Force,
    Json,
    NamedRun,
    Which,
    as_new_path,
    not_empty,
    parallel_option,
    split_run_and_file,
)
from charlm.cli.terminal import emit, emit_table, folded
from charlm.errors import CharlmError

_SUFFIX = ".charlm"


def _can_be_created(out: str | None) -> str | None:
    """Refuse a path at which no file can be created; - is stdout."""
    if out is not None:
        as_new_path(out)
    return out


FileToCompress = Annotated[
    list[str],
    typer.Argument(
        metavar="[RUN] FILE",
        callback=not_empty,
        help="Run folder [the newest under runs/], then a file; - is stdin.",
    ),
]
CompressedFile = Annotated[
    list[str],
    typer.Argument(
        metavar="[RUN] FILE",
        callback=not_empty,
        help="Run folder [the newest under runs/], then a file of charlm compress; - is stdin.",
    ),
]
CompressedOut = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        callback=_can_be_created,
        help="File to write; - is stdout. [FILE.charlm]",
        show_default=False,
    ),
]
RestoredOut = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        callback=_can_be_created,
        help="File to write; - is stdout. [FILE without .charlm]",
        show_default=False,
    ),
]
Streams = Annotated[
    int | None,
    parallel_option(
        help="Pieces that are coded side by side: fewer make a smaller file, more are faster. "
        "[by length]",
    ),
]


def compress(
    run_and_file: FileToCompress,
    out: CompressedOut = None,
    streams: Streams = None,
    named_run: NamedRun = None,
    which: Which = "best",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compress a file with a model; compare the size with xz, bzip2 and the model's cross-entropy.

    Any file comes back byte by byte; a file like the training text becomes small. Decompression
    needs the same run, the same torch and a similar processor.

    Try: charlm compress my.txt, then charlm decompress my.txt.charlm --out again.txt
    """
    folder, file = split_run_and_file(run_and_file, named_run)
    target = _target(out, "-" if file == "-" else file + _SUFFIX, force=force)
    if target is None and as_json:
        raise typer.BadParameter(
            "cannot be combined with a compressed file on stdout; name a file with --out",
            param_hint="--json",
        )
    data = _read(file)
    run = load(folder, which=which, device="cpu")
    with bar_of_total("compress", "token", stays=False) as report:
        if target is None:
            _write(None, run.compress(data, streams=streams, report=report))
            return
        result, compressed = run.measure_compression(data, streams=streams, report=report)
    _write(target, compressed)
    facts = result.to_json() | {"file": str(target)}
    emit_table(facts, map(folded, result.lines()), as_json=as_json)


def decompress(
    run_and_file: CompressedFile,
    out: RestoredOut = None,
    named_run: NamedRun = None,
    which: Which = "best",
    force: Force = False,
) -> None:
    """Restore a file that charlm compress compressed with the same run, and print its path.

    Try: charlm decompress my.txt.charlm --out again.txt
    """
    folder, file = split_run_and_file(run_and_file, named_run)
    if out is None and file != "-" and not file.endswith(_SUFFIX):
        raise typer.BadParameter(
            f"must be given for a file that does not end in {_SUFFIX}, got {file}",
            param_hint="--out",
        )
    target = _target(out, file.removesuffix(_SUFFIX), force=force)
    data = _read(file)
    loaded = load(folder, which=which, device="cpu")
    name = "stdin" if file == "-" else file
    with bar_of_total("decompress", "token", stays=False) as report:
        restored = loaded.decompress(data, name=name, report=report)
    _write(target, restored)
    if target is not None:
        emit(str(target))


def _target(out: str | None, default: str, *, force: bool) -> Path | None:
    """Return the file to write, None for stdout; refuse one that exists before the work begins."""
    name = default if out is None else out
    if name == "-":
        return None
    if Path(name).is_dir():
        raise CharlmError(f"{name}: is a folder; name a file with --out")
    if Path(name).exists() and not force:
        raise CharlmError(
            f"{name}: the file exists; name another one with --out, or overwrite it with --force"
        )
    return Path(name)


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise CharlmError(
            f"{file}: cannot be read: {error.strerror}; name a file, or - for stdin"
        ) from None


def _write(target: Path | None, data: bytes) -> None:
    from charlm.storage.atomic import atomic_write

    if target is None:
        sys.stdout.buffer.write(data)
        return
    remedy = "name another file with --out"
    with atomic_write(target, error_type=CharlmError, remedy=remedy) as file:
        file.write(data)
