"""Code that the peers of the board share: command line, alphabet, clock, precision, and result.

A contestant of `board.py` is a program that is run as

    python PROGRAM TRAIN HELD_OUT MINUTES SEED

It trains on the file TRAIN for MINUTES of its clock, scores every character of the file HELD_OUT
once, and prints a line of JSON with the fields of `Result`.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from math import cos, pi
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from measuring import PRECISIONS, amount, argument_parser, read_text, seconds_of
from runs import count_parameters
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Network = TypeVar("Network", bound=nn.Module)
_WARM_UP_STEPS, _TIMED_STEPS = 2, 3


@dataclass(frozen=True)
class Task:
    """What a contestant is given.

    Attributes:
        train: Ids of the training text.
        held_out: Ids of the text to score.
        vocabulary_size: Number of different characters of both texts.
        minutes: Training time.
    """

    train: Tensor
    held_out: Tensor
    vocabulary_size: int
    minutes: float


@dataclass(frozen=True)
class Result:
    """What a contestant prints.

    Attributes:
        loss_nats: Nats of all characters of the held-out text / their number.
        characters: Number of characters of the held-out text, each of which was predicted once.
        parameters: Number of parameters.
        steps: Number of optimization steps.
        training_seconds: Time of the training.
        settings: The settings in a few words.
    """

    loss_nats: float
    characters: int
    parameters: int
    steps: int
    training_seconds: float
    settings: str


class Training(Protocol):
    """The training of a peer: its optimizer, and a step in a precision."""

    optimizer: torch.optim.Optimizer

    def step(self, precision: str) -> None:
        """Take one step."""


def add_task(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the arguments of every contestant to a parser, and return it."""
    parser.add_argument("train", type=Path, help="training text")
    parser.add_argument("held_out", type=Path, help="text to score")
    parser.add_argument("minutes", type=amount, help="training time")
    parser.add_argument("seed", type=int, help="seed")
    return parser


def read_task(description: str | None) -> Task:
    """Read the command line of a peer, and set the seed.

    The alphabet is that of both texts, as in nanoGPT's preparation of tiny Shakespeare, so that
    peers have no unknown characters.
    """
    options = add_task(argument_parser(description)).parse_args()
    torch.manual_seed(options.seed)
    torch.set_flush_denormal(True)
    paths = (options.train, options.held_out)
    texts = [read_text(path) for path in paths]
    numbers = {character: number for number, character in enumerate(sorted(set("".join(texts))))}
    train, held_out = (torch.tensor([numbers[character] for character in text]) for text in texts)
    return Task(train, held_out, len(numbers), options.minutes)


def compete(
    task: Task,
    network: Network,
    make_training: Callable[[Network, Tensor], Training],
    predict: Callable[[Network, Task], Iterable[tuple[Tensor, Tensor]]],
    rate: Callable[[float], float],
    settings: str,
) -> None:
    """Train for the time of the task, score and print the result.

    Args:
        task: Texts and training time.
        network: Network with its initial weights.
        make_training: Returns the training of a network on a text.
        predict: Yields logits of the held-out text and their targets.
        rate: Function from the fraction of the time that has passed to the learning rate.
        settings: Settings in a few words.
    """
    precision = faster_precision(make_training(copy.deepcopy(network), task.train).step)
    training, steps, start = make_training(network, task.train), 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < 60 * task.minutes:
        for group in training.optimizer.param_groups:
            group["lr"] = rate(seconds / (60 * task.minutes))
        training.step(precision)
        steps += 1
    loss_nats, characters = mean_loss(predict(network.eval(), task))
    result = Result(
        loss_nats=loss_nats,
        characters=characters,
        parameters=count_parameters(network),
        steps=steps,
        training_seconds=seconds,
        settings=f"{settings}, {precision}",
    )
    print(json.dumps(asdict(result)))


def rate_factor(progress: float, *, warm_up: float = 0.02, last: float = 0.0) -> float:
    """Return the learning rate as a fraction of its peak: a linear warm-up, then a cosine.

    Args:
        progress: Fraction of the training time that has passed.
        warm_up: Fraction of the time in which the rate rises.
        last: Fraction of the peak that is left in the end.
    """
    if progress < warm_up:
        return progress / warm_up
    fallen = (1 - cos(pi * min(1.0, (progress - warm_up) / (1 - warm_up)))) / 2
    return 1 - (1 - last) * fallen


def autocast(precision: str) -> AbstractContextManager[object]:
    """Return the context that computes products in a precision."""
    return torch.autocast("cpu", PRECISIONS[precision], enabled=precision != "fp32")


def faster_precision(step: Callable[[str], object]) -> str:
    """Return the precision in which a few calls of `step` are faster; this time is not counted."""
    seconds = {}
    for precision in PRECISIONS:
        for _ in range(_WARM_UP_STEPS):
            step(precision)
        timed = partial(step, precision)
        seconds[precision] = min(seconds_of(timed) for _ in range(_TIMED_STEPS))
    return min(seconds, key=seconds.__getitem__)


def mean_loss(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Return the nats per character of logits and their targets, and the number of characters."""
    nats, characters = 0.0, 0
    for logits, targets in batches:
        flat = logits.flatten(0, -2).float()
        nats += cross_entropy(flat, targets.flatten(), reduction="sum").item()
        characters += targets.numel()
    return nats / characters, characters
