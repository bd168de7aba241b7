"""`charlm compress` and `charlm decompress`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import MOST_BESIDE, Json, Which, as_path, at_most, not_empty
from charlm.cli.terminal import emit, emit_result
from charlm.errors import CharlmError

if TYPE_CHECKING:  # It imports torch.
    from charlm.compression.coder import Report
    from charlm.compression.compress import Compression

_SUFFIX = ".charlm"
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


def compress(
    run_and_file: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] FILE",
            callback=not_empty,
            help="Run folder [the newest under runs/], then a file; - is stdin.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=not_empty,
            help="What to write; - is stdout. [FILE.charlm]",
            show_default=False,
        ),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MOST_BESIDE),
            help="Pieces coded side by side: fewer are smaller, more are faster. [by length]",
        ),
    ] = None,
    which: Which = "best",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a file smaller with a model, by an arithmetic coder; compare with xz, bzip2 and the model's cross-entropy.

    Any file comes back, byte by byte; one that is like the training text becomes small. Decompressing needs the same
    run, the same torch and a like processor.

    Try: charlm compress my.txt, then charlm decompress my.txt.charlm --out again.txt
    """
    from charlm.api import load

    *folder, file = run_and_file
    if len(folder) > 1:
        raise typer.BadParameter(
            f"one RUN and one FILE at most, got {len(run_and_file)}", param_hint="[RUN] FILE"
        )
    target = _target(out, "-" if file == "-" else file + _SUFFIX, force=force)
    if target is None and as_json:
        raise typer.BadParameter(
            "cannot be given where the compressed file goes to stdout", param_hint="--json"
        )
    run, data = load(*folder, which=which, device="cpu"), _read(file)
    with _bar("compress") as report:
        if target is None:
            _write(None, run.compress(data, streams=streams, report=report))
            return
        result, compressed = run.measure_compression(data, streams=streams, report=report)
    _write(target, compressed)
    emit_result(result.to_json() | {"file": str(target)}, _table(result), as_json=as_json)


def decompress(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", callback=not_empty, help="What charlm compress wrote; - is stdin."
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            parser=as_path,
            help="Run folder. [the newest under runs/]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=not_empty,
            help="What to write; - is stdout. [FILE without .charlm]",
            show_default=False,
        ),
    ] = None,
    which: Which = "best",
    force: Force = False,
) -> None:
    """Give back the file that charlm compress made smaller, byte by byte, with the same run; print its path.

    Try: charlm decompress my.txt.charlm --out again.txt
    """
    from charlm.api import load

    if out is None and file != "-" and not file.endswith(_SUFFIX):
        raise typer.BadParameter(
            f"{file} does not end in {_SUFFIX}: say what to write", param_hint="--out"
        )
    target = _target(out, file.removesuffix(_SUFFIX), force=force)
    data = _read(file)
    loaded = load(run, which=which, device="cpu")
    with _bar("decompress") as report:
        found = loaded.decompress(data, name="stdin" if file == "-" else file, report=report)
    _write(target, found)
    if target is not None:
        emit(str(target))


def _table(result: "Compression") -> Iterator[str]:
    for name, value in result.to_json().items():
        if name != "settings" and value is not None:
            shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"
            yield f"{name:<20} {shown:>16}"
    yield ", ".join(f"{name} {value}" for name, value in result.settings.items())


def _target(out: str | None, default: str, *, force: bool) -> Path | None:
    """Return the file to write, None for stdout; one that is there is refused before the work is done."""
    out = out or default
    if out == "-":
        return None
    if Path(out).is_dir():
        raise CharlmError(f"{out}: is a folder; give --out a file")
    if Path(out).exists() and not force:
        raise CharlmError(
            f"{out}: is there already; give another --out, or --force to write over it"
        )
    return Path(out)


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
    with atomic_write(target, error_type=CharlmError, remedy="give another --out") as file:
        file.write(data)


@contextmanager
def _bar(what: str) -> Iterator["Report"]:
    """Show how far it is, on stderr, to eyes alone."""
    from tqdm import tqdm

    with tqdm(
        unit="token", unit_scale=True, desc=what, disable=not sys.stderr.isatty(), leave=False
    ) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report
