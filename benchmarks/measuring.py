"""Code that the benchmarks share: command lines, files of results, timing, tables, and training."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import nn

import charlm
from charlm.config.schema import Config
from charlm.data.corpus import Text, open_corpus
from charlm.data.resolve import resolve
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.runs import prepare, session
from charlm.runs.experiment import Experiment
from charlm.storage.atomic import atomic_write

Name = TypeVar("Name")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
VOCABULARY_SIZE = 67  # Of tiny Shakespeare: 65 characters, <EOS> and <UNK>.


def run_main(main: Callable[[], None]) -> None:
    """Run the main function of a benchmark; end it with one line and status 1 at a CharlmError."""
    try:
        main()
    except CharlmError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the docstring of the benchmark, unchanged."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


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


def check_names(
    parser: argparse.ArgumentParser, argument: str, names: Iterable[str], known: Iterable[str]
) -> None:
    """Refuse names that are not known, as wrong usage.

    `choices` of argparse would also be compared with the default of an argument of several values.

    Args:
        parser: Parser of the command line.
        argument: Name of the argument in the message.
        names: Names that were given.
        known: Names that are allowed.
    """
    allowed = list(known)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        parser.error(f"{argument}: must be one of {'; '.join(allowed)}, got {unknown[0]!r}")


def add_seeds(parser: argparse.ArgumentParser, default: list[int]) -> None:
    """Add the option `--seeds`; its value is a list of numbers, given as `1 2 3` or `1,2,3`."""
    shown = " ".join(map(str, default))
    parser.add_argument(
        "--seeds",
        nargs="+",
        action=_Numbers,
        default=default,
        metavar="SEED",
        help=f"one run each, as in 1 2 3 or 1,2,3 [{shown}]",
    )


class _Numbers(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            numbers = [int(number) for value in values for number in value.split(",")]
        except ValueError:
            parser.error(f"{option_string}: must be integers, got {' '.join(values)!r}")
        setattr(namespace, self.dest, numbers)


def add_processor_time(parser: argparse.ArgumentParser) -> None:
    """Add the option `--processor-time`: see `budgets_in_processor_time`."""
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="minutes are processor time, so that other programs change nothing; needs one thread, "
        "OMP_NUM_THREADS=1",
    )


@contextmanager
def budgets_in_processor_time(*, enabled: bool = True) -> Iterator[None]:
    """Measure the minutes of every training by the processor time of this process.

    The seconds that a run reports are processor time too. With one thread they are those of an
    idle machine, except that other programs share the memory.

    Raises:
        SystemExit: Several threads would share the minutes.
    """
    if enabled and torch.get_num_threads() > 1:
        sys.exit(
            f"--processor-time: needs one thread, got {torch.get_num_threads()}; set "
            "OMP_NUM_THREADS=1, or --threads 1 where the benchmark has that option"
        )
    run = partial(session.run, clock=time.process_time)
    with mock.patch.object(session, "run", run) if enabled else nullcontext():
        yield


def read_results(path: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results in a file to continue; without one, the machine and the plan.

    Args:
        path: File that `write_results` has written, or will write.
        plan: What all measurements of a file have in common.

    Raises:
        SystemExit: The file has another plan.
    """
    if not path.exists():
        return {**environment(), **plan}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name, value in plan.items():
        if results.get(name) != value:
            sys.exit(f"{path}: has other {name}: {results.get(name)}; name another --out")
    return results


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write results; the file is complete or unchanged, whenever the program is stopped."""
    with atomic_write(path) as file:
        file.write(json.dumps(results, indent=1).encode())


def add_test_share(parser: argparse.ArgumentParser) -> None:
    """Add the option `--test-share`: see `hold_out_test`."""
    parser.add_argument(
        "--test-share",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="if the configuration has no test split, hold out this fraction of its training "
        "split as one; the validation split stays the same [0]",
    )


def override_arguments(overrides: Iterable[str]) -> list[str]:
    """Return overrides as the arguments of a command line."""
    return [argument for override in overrides for argument in ("--set", override)]


def text_override(path: Path | str, key: str = "corpus.text") -> str:
    """Return the override that makes a file the text of a run."""
    return f"{key}={json.dumps([str(path)])}"


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
        SystemExit: It ends with another exit status than 0; its errors are on standard error.
    """
    command = [sys.executable, *arguments]
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    environment = os.environ | limit
    process = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, text=True, env=environment
    )
    if process.returncode:
        program = Path(sys.argv[0]).name
        sys.exit(f"{program}: {arguments[0]}: ended with exit status {process.returncode}")
    return process.stdout


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


def format_spread(values: Mapping[str, float], places: int) -> str:
    """Return what `spread` returned as a median with its range, which is left out if it is a point.

    >>> format_spread({"median": 1200.5, "lowest": 1.0, "highest": 3000.0}, 1)
    '1,200.5 (1.0 to 3,000.0)'
    """
    median, lowest, highest = (
        f"{values[key]:,.{places}f}" for key in ("median", "lowest", "highest")
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


def measure_run(config: Config, *, test_share: float = 0.0, **scoring: Any) -> dict[str, Any]:
    """Train one run, and score its validation split, and its test split if it has one.

    Args:
        config: Configuration of the run.
        test_share: Fraction of the training split to hold out as the test split, if the
            configuration has none; 0 leaves the configuration as it is.
        scoring: Options of `charlm.Run.perplexity`.

    Returns:
        Size, steps, passes and seconds of the training; `splits` has the score of each split. The
        time of the run that is not training is in `other_seconds`; with budgets in processor time,
        it contains the time in which the training waited for a core.
    """
    with tempfile.TemporaryDirectory() as folder:
        if test_share:
            config = hold_out_test(config, test_share, Path(folder))
        start = time.perf_counter()
        experiment = train(config, Path(folder) / "run")
        seconds = time.perf_counter() - start
        run = charlm.load(Path(folder) / "run")
        parts = [part for part in ("valid", "test") if part in experiment.corpus.parts]
        splits = {part: run.perplexity(split=part, **scoring).to_json() for part in parts}
    state = experiment.state
    return {
        "parameters": count_parameters(experiment.model),
        "vocabulary_size": experiment.tokenizer.vocabulary_size,
        "precision": str(experiment.hardware.precision).removeprefix("torch."),
        "steps": state.step,
        "epochs": round(state.epochs, 3),
        "training_seconds": round(state.seconds, 2),
        "other_seconds": round(seconds - state.seconds, 2),
        "tokens_per_second": round(state.tokens / state.seconds),
        "splits": splits,
    }


def hold_out_test(config: Config, share: float, folder: Path) -> Config:
    """Return a configuration with a test split, which was part of the training split before.

    The validation split stays the same, and no setting was chosen on the new test split: it is the
    end of the training split, or documents or records of it, chosen by `corpus.split_seed`. A
    configuration that has a test split is returned as it is.
    """
    resolved = resolve(config)
    parts = open_corpus(resolved).parts
    if "test" in parts:
        return config
    for part in ("train", "valid"):
        (folder / f"{part}.txt").write_bytes(text_bytes(parts[part]))
    corpus = resolved.corpus.model_copy(
        update={
            "text": (str(folder / "train.txt"),),
            "valid_text": (str(folder / "valid.txt"),),
            "valid_share": 0.0,
            "test_share": share,
            "encoding": "utf-8",
        }
    )
    return resolved.model_copy(update={"corpus": corpus})


def text_bytes(text: Text) -> bytes:
    """Return the bytes of a text, with its separator after each document."""
    separator = text.separator.encode()
    return b"".join(block + (separator if ends else b"") for block, ends in text.blocks())


def train(config: Config, folder: Path) -> Experiment:
    """Train to the end of the budget; return the experiment in its last state."""
    experiment = prepare.begin(config, folder)
    run_to_end(experiment)
    return experiment


def run_to_end(experiment: Experiment) -> None:
    """Train an experiment that has begun to the end of its budget."""
    for _ in session.run(experiment):
        pass


def count_multiplications(*modules: nn.Module) -> int:
    """Return the multiplications per token by the matrices of modules: the numbers in them."""
    weights = (weight for module in modules for weight in module.parameters())
    return sum(weight.numel() for weight in weights if weight.ndim == 2)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_configured(config: Config, vocabulary_size: int) -> int:
    """Return the number of parameters that the network of a configuration would have."""
    with torch.device("meta"):
        return count_parameters(LanguageModel(config.model, vocabulary_size))


def fitting_size(parameters: Callable[[int], int], target: int, *, limit: int) -> int:
    """Return the size, at most `limit`, whose number of parameters is nearest to a target.

    Args:
        parameters: Function from a size to a number of parameters, which increases.
        target: Number of parameters.
        limit: Largest size.

    >>> fitting_size(lambda size: size**2, 30, limit=100)
    5
    """
    above = bisect_left(range(limit), target, lo=2, key=parameters)
    return min((above - 1, above), key=lambda size: abs(parameters(size) - target))


def process_bytes(process: int, file: str, field: str) -> int:
    """Return a size from /proc/PROCESS/FILE in bytes; 0 if the process has ended. Linux only."""
    try:
        lines = Path(f"/proc/{process}/{file}").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    sizes = (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    return next(sizes, 0)
