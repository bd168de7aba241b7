"""Code that the benchmarks share: command lines, files of results, processes, timing and tables.

Each benchmark prints a table, and everything as JSON, with the machine and the versions: as its
last line, or in the file --out. An option of several benchmarks has the same name and form in all,
and is declared here.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from charlm.data.cards import build_corpus, card_names
from charlm.errors import CharlmError, CorpusError
from charlm.evaluation.text_files import decode_utf8
from charlm.storage.atomic import atomic_write

Name = TypeVar("Name")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
VOCABULARY_SIZE = 67  # Of tiny Shakespeare: 65 characters, <EOS> and <UNK>.
POLL_SECONDS = 0.01


def run_main(main: Callable[[], None]) -> None:
    """Run the main function of a benchmark.

    A CharlmError, and a file that cannot be read or written, end it with one line and status 1;
    Ctrl-C ends it with one line and status 130.
    """
    try:
        main()
    except CharlmError as error:
        problem, status = str(error), 1
    except OSError as error:
        if error.filename is None:
            raise
        problem, status = f"{error.filename}: {error.strerror}", 1
    except KeyboardInterrupt:
        problem, status = "interrupted", 130
    else:
        return
    print(f"{Path(sys.argv[0]).name}: {problem}", file=sys.stderr)
    sys.exit(status)


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the docstring of the benchmark, unchanged."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def count(text: str) -> int:
    """Return a number of things from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def amount(text: str) -> float:
    """Return a positive number from the command line."""
    return _number(text, "a number above 0", lambda number: 0 < number < math.inf)


def fraction(text: str) -> float:
    """Return a number from 0 up to, but not including, 1 from the command line."""
    return _number(text, "at least 0 and below 1", lambda number: 0 <= number < 1)


def _number(text: str, kind: str, is_valid: Callable[[float], bool]) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan  # It is not valid: all comparisons with it are false.
    if not is_valid(number):
        raise argparse.ArgumentTypeError(f"must be {kind}, got {text!r}")
    return number


# Options of several benchmarks. With a list as its default an option takes several values.
OPTIONS: dict[str, dict[str, Any]] = {
    "batch": {"type": count, "help": "sequences in a batch"},
    "configs": {"metavar": "NAME", "help": "shipped configurations or files"},
    "device": {"choices": ["auto", "cpu", "cuda"], "help": "device of the computation"},
    "files": {"type": count, "help": "number of files"},
    "gigabytes": {"type": amount, "help": "size of the text"},
    "hidden": {"type": count, "help": "hidden size"},
    "level": {"choices": ["char", "byte", "word", "bpe"], "help": "level of the tokens"},
    "minutes": {"type": amount, "help": "minutes of training of a run"},
    "precision": {"choices": list(PRECISIONS), "help": "type of the matrix products"},
    "rates": {"type": amount, "help": "learning rates"},
    "rounds": {"type": count, "help": "rounds of measurements; medians over them are printed"},
    "seeds": {"type": count, "help": "seeds, with a run for each"},
    "steps": {"type": count, "help": "training steps of a run"},
    "threads": {"type": count, "help": "threads of torch"},
    "trials": {"type": count, "help": "trials of each search"},
    "vocabulary": {"type": count, "help": "number of different tokens"},
    "window": {"type": count, "help": "tokens per sequence"},
}


def add_options(parser: Any, **defaults: Any) -> None:
    """Add options of `OPTIONS` to a parser, or to a group of one.

    Args:
        parser: The parser or group.
        defaults: Default of each option; the help shows it, unless it is None or an empty list. A
            list makes the option one of several values.
    """
    for name, default in defaults.items():
        settings = OPTIONS[name]
        if isinstance(default, list):
            add_series(parser, f"--{name}", default, **settings)
            continue
        purpose = settings["help"] + _shown(default)
        metavar = {} if "choices" in settings else {"metavar": settings.get("metavar", "N")}
        parser.add_argument(f"--{name}", default=default, **settings | metavar | {"help": purpose})


def add_series(
    parser: Any,
    option: str,
    default: list[Any],
    *,
    help: str,
    type: Callable[[str], Any] = str,
    choices: Iterable[str] = (),
    metavar: str = "",
) -> None:
    """Add an option of several different values, given as `1 2 3` or `1,2,3`.

    Args:
        parser: A parser, or a group of one.
        option: Name of the option.
        default: Its default, which the help shows, unless it is empty or all of the choices.
        help: Purpose of the option.
        type: Function that makes a value of its text.
        choices: Values that are allowed, which may contain commas; empty for all.
        metavar: Placeholder in the help.
    """
    allowed = list(choices)
    names = f", of: {'; '.join(allowed)}" if allowed else ""
    parser.add_argument(
        option,
        nargs="+",
        action=partial(_Series, kind=type, allowed=allowed),
        default=default,
        metavar=metavar or ("NAME" if allowed else "N"),
        help=help + names + (" [all]" if default == allowed != [] else _shown(*default)),
    )


def _shown(*values: Any) -> str:
    """Return the end of a help text that shows a default, without one if there is none."""
    texts = (f"{value:g}" if isinstance(value, float) else str(value) for value in values)
    return f" [{' '.join(texts)}]" if values and values != (None,) else ""


class _Series(argparse.Action):
    """Several values. `choices` of argparse would be compared with the default as a whole."""

    def __init__(
        self, *flags: Any, kind: Callable[[str], Any], allowed: Sequence[str], **settings: Any
    ) -> None:
        super().__init__(*flags, **settings)
        self.kind, self.allowed = kind, allowed

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            series = [self._read(text) for value in values for text in self._split(value)]
        except (argparse.ArgumentTypeError, ValueError) as error:
            parser.error(f"{option_string}: {error}")
        if len(set(series)) < len(series):
            parser.error(f"{option_string}: must be different values, got {' '.join(values)}")
        setattr(namespace, self.dest, series)

    def _split(self, value: str) -> list[str]:
        return [value] if value in self.allowed else value.split(",")

    def _read(self, text: str) -> Any:
        if self.allowed and text not in self.allowed:
            raise argparse.ArgumentTypeError(
                f"must be one of {'; '.join(self.allowed)}, got {text!r}"
            )
        return self.kind(text)


def add_budget(parser: argparse.ArgumentParser, *, minutes: float | list[float]) -> None:
    """Add `--minutes` with its default, and `--steps` instead of it: see `budget_override`."""
    group = parser.add_mutually_exclusive_group()
    add_options(group, minutes=minutes, steps=[] if isinstance(minutes, list) else None)


def budget_override(options: argparse.Namespace) -> str:
    """Return the override that limits the training of a run by --steps or --minutes."""
    if options.steps:
        return f"training.steps={options.steps}"
    return f"training.minutes={options.minutes}"


def add_text(parser: argparse.ArgumentParser, name: str = "text", **settings: Any) -> None:
    """Add the text of a benchmark, or its texts with `nargs`, as positional argument."""
    parser.add_argument(
        name, metavar="TEXT", help="file, or name of a corpus built from Python", **settings
    )


def read_text(name: str | Path) -> str:
    """Return the text of a corpus built from Python, or of a UTF-8 file, without its BOM.

    Raises:
        CorpusError: The file is empty, or is not UTF-8.
        OSError: It cannot be read.
    """
    if str(name) not in card_names():
        data = Path(name).read_bytes()
        if not data:
            raise CorpusError(f"{name}: is empty; give a text of at least a few hundred characters")
        return decode_utf8(data, str(name))
    with tempfile.TemporaryDirectory() as folder:
        return build_corpus(str(name), to=Path(folder) / "text.txt").read_bytes().decode()


def text_override(text: Path | str, key: str = "corpus.text") -> str:
    """Return the override that makes a file or a corpus the text of a run."""
    return f"{key}={json.dumps([str(text)])}"


def add_overrides(
    parser: argparse.ArgumentParser, purpose: str = "override a setting; can be repeated"
) -> None:
    """Add the option `--set`; its values are the list `overrides` of the parsed arguments."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help=purpose,
    )


def override_arguments(overrides: Iterable[str]) -> list[str]:
    """Return overrides as the arguments of a command line."""
    return [argument for override in overrides for argument in ("--set", override)]


def add_processor_time(parser: argparse.ArgumentParser) -> None:
    """Add the option `--processor-time`: see `runs.budgets_in_processor_time`."""
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="minutes are processor time, so that other programs change nothing; needs one thread, "
        "OMP_NUM_THREADS=1",
    )


def add_test_share(parser: argparse.ArgumentParser) -> None:
    """Add the option `--test-share`: see `runs.hold_out_test`."""
    parser.add_argument(
        "--test-share",
        type=fraction,
        default=0.0,
        metavar="FRACTION",
        help="if the configuration has no test split, hold out this fraction of its training "
        "split as one; the validation split stays the same [0]",
    )


def add_out(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the option `--out`: see `read_results`."""
    parser.add_argument(
        "--out",
        type=Path,
        required=required,
        metavar="FILE",
        help="JSON file that is written after each training; it continues one that exists",
    )


def read_results(path: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results in a file to continue; without one, the machine and the plan.

    Args:
        path: File that `write_results` has written, or will write.
        plan: What all measurements of a file have in common, besides the machine and the versions.

    Raises:
        CharlmError: The file has another plan, or is of another machine or version.
    """
    expected = {**environment(), **plan}
    if not path.exists():
        return expected
    try:
        results: dict[str, Any] = json.loads(path.read_bytes())
        found = {name: results.get(name) for name in expected}
    except (ValueError, AttributeError):
        raise CharlmError(f"{path}: is not a file of results; name another --out") from None
    for name, value in expected.items():
        if found[name] != value:
            raise CharlmError(
                f"{path}: its {name} is {found[name]!r}, not {value!r}; name another --out"
            )
    return results


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results; the file is complete or unchanged, whenever the program is stopped."""
    with atomic_write(path) as file:
        file.write(json.dumps(results, indent=1).encode())


def print_results(**results: Any) -> None:
    """Print the machine, the versions and all results as one line of JSON."""
    print(json.dumps({**environment(), **results}))


def environment() -> dict[str, Any]:
    """Return the machine, and the versions and threads in use, for the JSON output."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def processor_name() -> str:
    """Return the model of the processor, as Linux names it or as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def print_environment(*facts: str) -> None:
    """Print the machine, the versions and threads in use, and further facts in one line."""
    known = environment()
    machine = f"{known['processor']}, {known['cores']} cores, {known['threads']} threads"
    versions = f"Python {known['python']}, torch {known['torch']}"
    print(", ".join((machine, versions, *facts)), flush=True)


def run_python(*arguments: str | Path, threads: int | None = None) -> str:
    """Run a fresh Python to its end; return its standard output.

    Args:
        arguments: Its command line.
        threads: Number of threads of torch; None for its default.

    Raises:
        CharlmError: It ends with another exit status than 0; its errors are on standard error.
    """
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.run(
        [sys.executable, *arguments],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | limit,
    )
    _check_status(arguments, process.returncode)
    return process.stdout


def resources_of(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    poll: Callable[[int], None] = lambda process: None,
) -> Any:
    """Run a fresh Python to its end without its output; return its `resource.struct_rusage`.

    Args:
        arguments: Its command line.
        variables: Variables of its environment, besides those of this process.
        poll: Function of the number of its process, called every 10 ms.

    Raises:
        CharlmError: It ends with another exit status than 0; its errors are on standard error.
    """
    process = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | variables, stdout=subprocess.DEVNULL
    )
    try:
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            poll(process.pid)
            time.sleep(POLL_SECONDS)
    except BaseException:
        process.kill()
        raise
    process.returncode = os.waitstatus_to_exitcode(ended[1])
    _check_status(arguments, process.returncode)
    return ended[2]


def _check_status(arguments: Sequence[str | Path], status: int) -> None:
    if status:
        command = " ".join(map(str, arguments[:3]))
        raise CharlmError(f"{command}: ended with exit status {status}")


def synchronize(device: torch.device | None) -> None:
    """Wait until a GPU has finished its work; do nothing for a CPU or None."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device | None = None) -> float:
    """Return the seconds that a call takes, including its work on the device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def mean_seconds(
    work: Callable[[], object], calls: int, device: torch.device | None = None
) -> float:
    """Return the mean seconds of several calls in a row, including their work on the device."""

    def repeat() -> None:
        for _ in range(calls):
            work()

    return seconds_of(repeat, device) / calls


def measure_in_turn(
    measurements: Mapping[Name, Callable[[], float]], rounds: int
) -> dict[Name, list[float]]:
    """Take every measurement once per round, so that drift of the machine's speed affects all."""
    values: dict[Name, list[float]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, measure in measurements.items():
            values[name].append(measure())
    return values


def medians(values: Mapping[Name, list[float]]) -> dict[Name, float]:
    """Return the median over the rounds of every measurement."""
    return {name: statistics.median(series) for name, series in values.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the lowest and the highest of several values."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def median_ratio(rates: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median over the rounds of a rate relative to a reference of the same round."""
    return statistics.median(ours / theirs for ours, theirs in zip(rates, reference, strict=True))


def columns_of(rows: Sequence[Mapping[Name, Any]]) -> dict[Name, list[Any]]:
    """Return the values of several rows by name; all rows have the names of the first.

    >>> columns_of([{"steps": 5, "seconds": 2.0}, {"steps": 6, "seconds": 3.0}])
    {'steps': [5, 6], 'seconds': [2.0, 3.0]}
    """
    return {name: [row[name] for row in rows] for name in rows[0]}


def format_spread(values: Mapping[str, float], places: int, kind: str = "f") -> str:
    """Return what `spread` returned as a median with its range, which is left out if it is a point.

    Args:
        values: Median, lowest and highest value.
        places: Number of decimal places, or of digits.
        kind: `f` for decimal places, `g` for digits.

    >>> format_spread({"median": 1200.5, "lowest": 1.0, "highest": 3000.0}, 1)
    '1,200.5 (1.0 to 3,000.0)'
    """
    median, lowest, highest = (
        f"{values[key]:,.{places}{kind}}" for key in ("median", "lowest", "highest")
    )
    return median if lowest == highest else f"{median} ({lowest} to {highest})"


def format_losses(losses: Sequence[float]) -> str:
    """Return the median of losses with their range, or nothing without losses.

    >>> format_losses([1.4, 1.387, 1.3934])
    '1.393 (1.387 to 1.400)'
    """
    return format_spread(spread(losses), 3) if losses else ""


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, without a line end after its last line.

    >>> print(markdown_table(["text", "nats"], [["a.txt", "1.393"]]))
    | text | nats |
    | --- | --- |
    | a.txt | 1.393 |
    """
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in rows)])


def process_bytes(process: int, file: str, field: str) -> int:
    """Return a size from /proc/PROCESS/FILE in bytes; 0 if the process has ended. Linux only."""
    try:
        lines = Path(f"/proc/{process}/{file}").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    sizes = (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    return next(sizes, 0)
