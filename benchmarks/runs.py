"""Trainings of the benchmarks: budgets, held-out texts, scores, and numbers of parameters."""

import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import charlm
from charlm.config.schema import Config
from charlm.data.corpus import Text, open_corpus
from charlm.data.resolve import resolve
from charlm.errors import CharlmError, DivergenceError
from charlm.model.language_model import LanguageModel
from charlm.runs import prepare, session
from charlm.runs.experiment import Experiment


@contextmanager
def budgets_in_processor_time(*, enabled: bool = True) -> Iterator[None]:
    """Measure the minutes of every training by the processor time of this process.

    The seconds that a run reports are processor time too. With one thread they are those of an
    idle machine, except that other programs share the memory.

    Raises:
        CharlmError: Several threads would share the minutes.
    """
    if enabled and torch.get_num_threads() > 1:
        raise CharlmError(
            f"--processor-time: needs one thread, got {torch.get_num_threads()}; set "
            "OMP_NUM_THREADS=1, or --threads 1 where the benchmark has that option"
        )
    run = partial(session.run, clock=time.process_time)
    with mock.patch.object(session, "run", run) if enabled else nullcontext():
        yield


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

    Raises:
        DivergenceError: The training diverges.
    """
    run, error = _measure(config, test_share, scoring)
    if error:
        raise error
    return run


def measure_validation(config: Config) -> dict[str, Any]:
    """Train one run and score its validation split.

    Returns:
        As `measure_run`, with the scores of the validation split in place of `splits`. If the
        training diverges, they are None, and `error` says so.
    """
    run, error = _measure(config, 0.0, {})
    score = run.pop("splits").get("valid", {})
    scores = {key: score.get(key) for key in ("loss_nats", "perplexity", "bits_per_character")}
    return scores | run | {"error": str(error) if error else None}


def _measure(
    config: Config, test_share: float, scoring: Mapping[str, Any]
) -> tuple[dict[str, Any], DivergenceError | None]:
    """Return the results of a run, without scores after an error, and the error."""
    problem, splits = None, {}
    with tempfile.TemporaryDirectory() as folder:
        if test_share:
            config = hold_out_test(config, test_share, Path(folder))
        start = time.perf_counter()
        experiment = prepare.begin(config, Path(folder) / "run")
        try:
            run_to_end(experiment)
        except DivergenceError as error:
            problem = error
        seconds = time.perf_counter() - start
        if not problem:
            run = charlm.load(Path(folder) / "run")
            parts = [part for part in ("valid", "test") if part in experiment.corpus.parts]
            splits = {part: run.perplexity(split=part, **scoring).to_json() for part in parts}
    return describe_run(experiment, seconds) | {"splits": splits}, problem


def describe_run(experiment: Experiment, seconds: float) -> dict[str, Any]:
    """Return the size, the amount of training and the times of a run that took some seconds."""
    state = experiment.state
    return {
        "parameters": count_parameters(experiment.model),
        "vocabulary_size": experiment.tokenizer.vocabulary_size,
        "precision": str(experiment.hardware.precision).removeprefix("torch."),
        "steps": state.step,
        "epochs": round(state.epochs, 3),
        "training_seconds": round(state.seconds, 2),
        "other_seconds": round(seconds - state.seconds, 2),
        "tokens_per_second": round(state.tokens / state.seconds) if state.seconds else 0,
    }


def describe_settings(config: Config) -> list[str]:
    """Return the most important settings of a configuration in words."""
    model, training = config.model, config.training
    return [
        f"{model.cell.kind} {' + '.join(map(str, model.hidden_sizes))}",
        f"batch {training.batch_size}",
        f"window {training.window}",
        f"{training.optimizer} {training.learning_rate:g}",
        f"dropout {model.output_dropout:g}",
    ]


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
