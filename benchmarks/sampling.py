"""Speed of sampling in tokens per second, as a ratio to a plain loop over torch.nn.LSTM.

Usage: python benchmarks/sampling.py [--hidden 512] [--vocabulary 65] [--seconds 3] [--rounds 5]
    [--threads N]

The model is untrained, because the speed does not depend on the weights. The plain loop is that of
most scripts: embed, run the layer for one token, project, softmax, torch.multinomial. All methods
are timed in turn, for several rounds. The table shows medians, each with its ratio to the plain
loop, and the fraction of the memory bandwidth that a single text reaches: it reads the weights once
per token.
"""

import sys

sys.path.pop(0)  # This folder: its tokenize.py would hide the standard library's.

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import charlm
from charlm.config.load import check_config
from charlm.model.language_model import LanguageModel
from charlm.sampling.generator import GeneratorOptions, generate
from charlm.sampling.options import Filters

CHUNK = 50  # Tokens between two readings of the clock.


@torch.inference_mode()
def plain_loop(model: LanguageModel) -> Iterator[int]:
    """Generate with a plain loop; yield the number of tokens per chunk."""
    lstm = model.encoder.recurrence.layers[0].kernel
    ids = torch.zeros(1, 1, dtype=torch.int64)
    state = None
    while True:
        for _ in range(CHUNK):
            output, state = lstm(model.encoder.embedding(ids), state)
            ids = torch.multinomial(torch.softmax(model.projection(output[0]), dim=-1), 1)
        yield CHUNK


def charlm_loop(model: LanguageModel, batch: int, filters: Filters) -> Iterator[int]:
    """Generate with charlm; yield the number of tokens per chunk."""
    steps = generate(model, [], GeneratorOptions(range(batch), 1, filters), length=10**9)
    while True:
        for _ in range(CHUNK):
            next(steps)
        yield CHUNK * batch


def rate(tokens: Iterator[int], seconds: float) -> float:
    """Return tokens per second, after a first chunk that is not timed."""
    next(tokens)
    began, total = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        total += next(tokens)
    return total / spent


def bandwidth(seconds: float) -> float:
    """Return the bytes per second at which a large vector is read."""
    numbers = torch.ones(2**26)

    def reads() -> Iterator[int]:
        while True:
            numbers.sum()
            yield numbers.nbytes

    return rate(reads(), seconds)


def time_methods(
    methods: dict[str, Callable[[], Iterator[int]]], *, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Return tokens per second of each method, by round."""
    rates: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        for name, method in methods.items():
            rates[name].append(rate(method(), seconds))
    return rates


def summarize(rates: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Return a row per method: the median, and the median ratio to the plain loop."""
    return [
        {
            "method": name,
            "tokens_per_second": round(statistics.median(own)),
            "to_plain_loop": statistics.median(
                rate / plain for rate, plain in zip(own, rates["plain loop"], strict=True)
            ),
        }
        for name, own in rates.items()
    ]


def bytes_per_token(model: LanguageModel) -> int:
    """Return the bytes of the weights that a single text reads per token."""
    return sum(
        tensor.nbytes
        for name, tensor in model.named_parameters()
        if "weight_hh" in name or "projection" in name
    )


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=65)
    parser.add_argument("--seconds", type=float, default=3.0, help="per method and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="[chosen by torch]")
    return parser.parse_args()


def main() -> None:
    """Print a table, and the same as JSON."""
    given = parse_arguments()
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(1)
    torch.set_flush_denormal(True)
    sizes = {"hidden_size": given.hidden, "embedding_size": 64}
    config = check_config({"model": sizes}, "benchmark")
    model = LanguageModel(config.model, given.vocabulary).eval()
    methods: dict[str, Callable[[], Iterator[int]]] = {
        "plain loop": lambda: plain_loop(model),
        "one text": lambda: charlm_loop(model, 1, Filters()),
        "one text, top-p 0.9": lambda: charlm_loop(model, 1, Filters(top_p=0.9)),
        "64 texts": lambda: charlm_loop(model, 64, Filters()),
    }
    rows = summarize(time_methods(methods, rounds=given.rounds, seconds=given.seconds))
    rates = {row["method"]: row["tokens_per_second"] for row in rows}
    fraction = rates["one text"] * bytes_per_token(model) / bandwidth(given.seconds)
    threads = torch.get_num_threads()
    print(
        f"charlm {charlm.__version__}, torch {torch.__version__}, {threads} threads, "
        f"hidden size {given.hidden}, vocabulary {given.vocabulary}"
    )
    for row in rows:
        print(
            f"{row['method']:<24} {row['tokens_per_second']:>12,} tokens/s "
            f"{row['to_plain_loop']:>8.2f} of the plain loop"
        )
    print(f"one text reads its weights at {fraction:.0%} of the memory bandwidth")
    facts = {"threads": threads, "hidden_size": given.hidden, "bandwidth_fraction": fraction}
    print(json.dumps(facts | {"methods": rows}))


if __name__ == "__main__":
    main()
