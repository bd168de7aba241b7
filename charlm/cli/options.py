"""Types, ranges and checks of options that several commands share."""

import math
import re
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import typer

from charlm.config.values import DEVICES, MAX_COUNT, MAX_SEED
from charlm.errors import CheckpointError, refuse_beside
from charlm.storage.arguments import utf8_argument

MAX_PARALLEL = 10**6  # Upper limit of what is in memory at the same time.
MAX_PROCESSES = 1024  # Upper limit on one machine.
MAX_SEEDS = 1000
PartName = Literal["train", "valid", "test"]  # A part of a corpus.
_Text = TypeVar("_Text", str, list[str])
# Options and arguments whose name on the command line differs from that in Python.
_FLAGS = {
    "as_json": "--json",
    "from_run": "--from",
    "next_tokens": "--next",
    "no_repeat_ngram": "--no-repeat",
    "overrides": "--set",
    "pairs": "PAIRS",
    "parameters": "--set",
    "samples": "FILE",
    "sections": "--only",
    "texts": "TEXT",
    "torchrun": "torchrun",
    "which": "--checkpoint",
}
# Short names of settings in other trainers.
_SETTINGS = {
    "lr": "training.learning_rate",
    "hidden": "model.hidden_size",
    "layers": "model.num_layers",
    "cell": "model.cell",
    "batch": "training.batch_size",
}


def flag(option: str) -> str:
    """Return the name of an option on the command line: `--max-copy` for `max_copy`."""
    return _FLAGS.get(option, f"--{option.replace('_', '-')}")


def setting_of(option: str) -> str | None:
    """Return the setting that an unknown option names, as `--lr` or `--dropout` do; else None."""
    from charlm.config.annotations import fields_of
    from charlm.config.schema import Config

    name = option.lstrip("-").replace("-", "_")
    settings = (".".join(keys) for keys, _ in fields_of(Config) if keys[-1] == name)
    return _SETTINGS.get(name) or next(settings, None)


def as_path(text: str) -> Path:
    """Return a path; refuse an empty one, which would be the current folder."""
    if not text:
        raise typer.BadParameter("must not be empty")
    return Path(text)


def as_new_path(text: str) -> Path:
    """Return the path of a file or folder to create; refuse one below a file."""
    path = as_path(text)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise typer.BadParameter(f"{above} is not a folder, so nothing can be created in it")
    return path


def as_target(text: str) -> Path:
    """Return the path of a file to write; refuse a folder, and a file below a file."""
    path = as_new_path(text)
    if path.is_dir():
        raise typer.BadParameter(f"{text} is a folder; name a file")
    return path


def at_most(most: int) -> Callable[[int | None], int | None]:
    """Return a check that a number is at most `most`, a limit that the help does not mention."""

    def check(value: int | None) -> int | None:
        if value is not None and value > most:
            raise typer.BadParameter(f"must be at most {most:,}, got {value:,}")
        return value

    return check


def as_seeds(text: str) -> list[int]:
    """Return at least two different seeds, written as 1..5 or as 1,7."""
    if match := re.fullmatch(r"(\d{1,19})\.\.(\d{1,19})", text):
        first, last = map(int, match.groups())
        seeds = list(range(first, min(last, first + MAX_SEEDS) + 1))
    elif re.fullmatch(r"\d{1,19}(,\d{1,19})+", text):
        seeds = [int(seed) for seed in text.split(",")]
    else:
        seeds = []
    is_possible = 2 <= len(seeds) == len(set(seeds)) <= MAX_SEEDS and max(seeds) <= MAX_SEED
    if not is_possible:
        raise typer.BadParameter(
            f"must be 2 to {MAX_SEEDS:,} different seeds, as in 1..5 or 1,7, got {text!r}",
            param_hint="--seeds",
        )
    return seeds


def finite(value: float | None) -> float | None:
    """Refuse infinity and NaN."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value}")
    return value


def above_zero(value: float | None) -> float | None:
    """Refuse a number that is not finite or not above 0."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"must be a finite number above 0, got {value}")
    return value


def unicode_text(value: _Text | None) -> _Text | None:
    """Return UTF-8 text in any locale; refuse other bytes, which are lone surrogates in Python."""
    if isinstance(value, str):
        return _unicode_text(value)
    return None if value is None else [_unicode_text(text) for text in value]


def _unicode_text(value: str) -> str:
    text = utf8_argument(value)
    if odd := next((letter for letter in text if "\ud800" <= letter <= "\udfff"), None):
        raise typer.BadParameter(
            f"is not UTF-8: byte 0x{ord(odd) & 0xFF:02x} after {text[: text.index(odd)]!r}"
        )
    return text


def some_text(value: _Text | None) -> _Text | None:
    """Refuse an empty text, and one that is not UTF-8."""
    return unicode_text(not_empty(value))


def not_empty(value: _Text | None) -> _Text | None:
    """Refuse an empty text."""
    if value is not None and not all([value] if isinstance(value, str) else value):
        raise typer.BadParameter("must not be empty")
    return value


def valid_study_name(value: str | None) -> str | None:
    """Refuse a name that a search cannot have."""
    if value is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value):
        raise typer.BadParameter("must be 1 to 100 letters a to z, digits, dots, - and _")
    return value


def known_device(value: str | None) -> str | None:
    """Refuse a text that is not the name of a device, available or not."""
    if value is not None and not re.fullmatch(DEVICES, value):
        raise typer.BadParameter(f"must be auto, cpu, cuda or cuda:N, got {value!r}")
    return value


def device_for(device: str, *, int8: bool) -> str:
    """Return the device: with int8, auto is the CPU, because only there products are in int8."""
    return "cpu" if int8 and device == "auto" else device


def choose_run(folder: Path | None, named: Path | None) -> Path | None:
    """Return the run folder that the first argument or --run names, None for the newest."""
    if folder is not None and named is not None:
        raise typer.BadParameter(
            f"the first argument names a run, too: {folder}; leave one out", param_hint="--run"
        )
    return named if folder is None else folder


def runs_or_newest(folders: Sequence[Path] | None) -> list[Path | None]:
    """Return the run folders that were given; without any, None, which is the newest."""
    return [*(folders or [])] or [None]


def split_run_and_texts(
    arguments: Sequence[str] | None, named: Path | None
) -> tuple[Path | None, list[str]]:
    """Return the run folder, if --run or the first argument names one, and the texts after it.

    The first argument is a text if it is `-`, the name of a corpus, or the path of anything but a
    run folder, one of its checkpoints, or a folder of runs; with --run also if there is nothing of
    that name.
    """
    texts = list(arguments or [])
    if not texts:
        return named, []
    first = Path(texts[0])
    if _names_text(texts[0]) or (named is not None and not first.exists()):
        return named, texts
    if not first.exists() and not _is_in_runs(first):
        raise CheckpointError(f"{first}: no such run folder or text; {_remedy(first)}")
    return choose_run(first, named), texts[1:]


def texts_or_split(
    texts: str | Sequence[str] | None,
    split: PartName | None,
    *,
    option: str = "texts",
    name: str = "paths",
) -> dict[str, Any]:
    """Return the argument of a measure that says what it reads.

    Args:
        texts: Texts that are given; without any, it is the part of the corpus that --split names.
        split: Value of --split.
        option: Name of the option that gives the texts.
        name: Name of the argument that the texts become.

    Raises:
        OptionError: Both are given; --split does not choose a part of the texts.
    """
    if not texts:
        return {"split": split or "valid"}
    refuse_beside(option, "of which the whole text is scored", split=split)
    return {name: texts}


class ChosenText(NamedTuple):
    """What a measure reads.

    Attributes:
        folder: Run folder; None for the newest.
        text: Argument `paths` or `split` of the measure.
    """

    folder: Path | None
    text: dict[str, Any]


def choose_text(
    arguments: Sequence[str] | None, named: Path | None, split: PartName | None
) -> ChosenText:
    """Return what the arguments RUN|TEXT, --run and --split name together."""
    folder, texts = split_run_and_texts(arguments, named)
    return ChosenText(folder, texts_or_split(texts, split))


def file_of(files: Sequence[str], what: str, argument: str) -> str | None:
    """Return the only file after the run, None if there is none; refuse several files.

    Args:
        files: Arguments after the run.
        what: What the file contains.
        argument: Name of the argument in the help.
    """
    if len(files) > 1:
        raise typer.BadParameter(
            f"must be at most one file of {what}, got {len(files)}", param_hint=argument
        )
    return files[0] if files else None


def split_run_and_file(arguments: Sequence[str], named: Path | None) -> tuple[Path | None, str]:
    """Return the run folder, if --run or the first of two arguments names one, and the file."""
    *folders, file = arguments
    if len(folders) > 1:
        raise typer.BadParameter(
            f"must be at most one RUN and one FILE, got {len(arguments)} arguments",
            param_hint="[RUN] FILE",
        )
    return choose_run(as_path(folders[0]) if folders else None, named), file


def _names_text(argument: str) -> bool:
    from charlm.data.cards import card_names

    if argument == "-" or argument in card_names():
        return True
    path = Path(argument)
    is_run = (path / "config.yaml").is_file() or _is_in_runs(path)
    return path.exists() and not (is_run or _is_checkpoint(path) or _contains_runs(path))


def _remedy(missing: Path) -> str:
    from charlm.runs.folder import similar_run

    near = similar_run(missing)
    if near is None:
        return "correct the path, or make a run with charlm train"
    return f"did you mean {shlex.quote(str(near))}?"


def _contains_runs(path: Path) -> bool:
    """Return whether a folder contains run folders: config.yaml alone is also of other programs."""
    patterns = ("*/tokenizer.json", "*/*/tokenizer.json")
    tokenizers = (found for pattern in patterns for found in path.glob(pattern))
    return any(found.with_name("config.yaml").is_file() for found in tokenizers)


def _is_checkpoint(path: Path) -> bool:
    return (path / "state.json").is_file() and (path.parent / "config.yaml").is_file()


def _is_in_runs(path: Path) -> bool:
    return path.parent.name == "runs"


# Numbers with the limits that all commands share.
seed_option = partial(typer.Option, min=0, callback=at_most(MAX_SEED))
count_option = partial(typer.Option, min=1, callback=at_most(MAX_COUNT))
parallel_option = partial(typer.Option, min=1, callback=at_most(MAX_PARALLEL))

# Every command that reads one run names it as its first argument, or with --run.
Folder = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", parser=as_path, help="Run folder. [the newest under runs/]"),
]
NamedRun = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        parser=as_path,
        help="Run folder, if it is not the first argument.",
        show_default=False,
    ),
]
# Commands that take any number of runs.
Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="RUN...", parser=as_path, help="Run folders. [the newest under runs/]"),
]
RunAndTexts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN|TEXT",
        callback=not_empty,
        help="Run folder [the newest under runs/], then texts; - is stdin.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        callback=known_device,
        help="auto, cpu, cuda or cuda:N; it need not be that of the training.",
    ),
]
Which = Annotated[
    Literal["best", "last"],
    typer.Option(
        "--checkpoint", help="Checkpoint with the lowest validation loss, or the last one."
    ),
]
Split = Annotated[
    PartName | None,
    typer.Option(
        help="Without TEXT: part of the run's own corpus. [valid]",
        show_default=False,
    ),
]
At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="TOKEN",
        callback=not_empty,
        help="Measure only predictions of this token, as in --at was. Repeatable. [all tokens]",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
