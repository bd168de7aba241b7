"""Sampling speed of charlm, relative to a plain loop over torch.nn.LSTM in the same run.

The model is an untrained LSTM, because the speed does not depend on what it has learned. The plain
loop is what most scripts do: embed, run the layer for one token, project, softmax,
torch.multinomial. All methods are timed in turn, in several rounds. The table shows medians of
tokens per second, and medians of the ratio to the plain loop. The last lines are what a token
costs: microseconds, multiplications, and bytes of weights, which are read once per token, as a
fraction of the memory bandwidth. Weights that a cache holds are read faster than that.

    python benchmarks/sampling.py --hidden 512 --vocabulary 65 --rounds 5 --threads 1
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from measuring import (
    add_options,
    amount,
    argument_parser,
    measure_in_turn,
    median_ratio,
    medians,
    print_environment,
    print_results,
    run_main,
)

import charlm
from charlm.model.fast.int8 import Int8Matrix, multiplies_exactly, with_int8_products
from charlm.model.language_model import LanguageModel
from charlm.sampling.generator import GeneratorOptions, generate
from charlm.sampling.options import Filters

CHUNK = 50  # Tokens between two readings of the clock.
PLAIN_LOOP, ONE_TEXT, ONE_TEXT_INT8 = "plain loop", "one text", "one text, int8"


def main() -> None:
    """Time all methods; print a table, and the same as JSON."""
    options = arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    torch.set_flush_denormal(True)
    sizes = [f"model.hidden_size={options.hidden}", "model.embedding_size=64"]
    model = LanguageModel(charlm.load_config(None, sizes).model, options.vocabulary).eval()
    print_environment(
        f"charlm {charlm.__version__}",
        f"hidden size {options.hidden}",
        f"vocabulary {options.vocabulary}",
    )
    results = measure(model, options.seconds, options.rounds)
    print_tables(results)
    if not multiplies_exactly():
        print("this processor has no exact products in int8: they are computed in fp32")
    print_results(hidden_size=options.hidden, multiplies_int8=multiplies_exactly(), **results)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_options(parser, hidden=512, vocabulary=65, rounds=5, threads=None)
    parser.add_argument(
        "--seconds", type=amount, default=3.0, help="time of each method in each round [3]"
    )
    return parser.parse_args()


def measure(model: LanguageModel, seconds: float, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Time all methods in turn, then the memory; return the costs of a token, and the rates."""
    in_int8 = with_int8_products(model)
    rates = measure_in_turn(measurements(model, in_int8, seconds), rounds)
    bytes_per_second = bandwidth(seconds)
    costs = [
        cost(each, statistics.median(rates[name]), bytes_per_second) | {"method": name}
        for name, each in ((ONE_TEXT, model), (ONE_TEXT_INT8, in_int8))
    ]
    methods = [
        {
            "method": name,
            "tokens_per_second": round(median),
            "ratio_to_plain_loop": median_ratio(rates[name], rates[PLAIN_LOOP]),
        }
        for name, median in medians(rates).items()
    ]
    return {"costs": costs, "methods": methods}


def print_tables(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print a line per method, and what a token costs."""
    for row in results["methods"]:
        print(
            f"{row['method']:<24} {row['tokens_per_second']:>12,} tokens/s "
            f"{row['ratio_to_plain_loop']:>8.2f} of the plain loop"
        )
    for row in results["costs"]:
        print(
            f"{row['method']}: {row['microseconds']:.0f} µs, {row['multiplications']:,} "
            f"multiplications and {row['bytes']:,} bytes of weights per token, read at "
            f"{row['bandwidth_fraction']:.0%} of the memory bandwidth"
        )


def measurements(
    model: LanguageModel, in_int8: LanguageModel, seconds: float
) -> dict[str, Callable[[], float]]:
    """Return, for each method, a function that measures its tokens per second."""
    methods: dict[str, Callable[[], Iterator[int]]] = {
        PLAIN_LOOP: lambda: plain_loop(model),
        ONE_TEXT: lambda: sample(model, 1, Filters(temperature=1)),
        "one text, top-p 0.9": lambda: sample(model, 1, Filters(temperature=1, top_p=0.9)),
        ONE_TEXT_INT8: lambda: sample(in_int8, 1, Filters(temperature=1)),
        "64 texts": lambda: sample(model, 64, Filters(temperature=1)),
        "64 texts, int8": lambda: sample(in_int8, 64, Filters(temperature=1)),
    }

    def measure(method: Callable[[], Iterator[int]]) -> float:
        return rate(method(), seconds)

    return {name: partial(measure, method) for name, method in methods.items()}


@torch.inference_mode()
def plain_loop(model: LanguageModel) -> Iterator[int]:
    """Sample in the plain way; yield the number of tokens after each chunk."""
    lstm = model.encoder.recurrence.layers[0].kernel
    ids, state = torch.zeros(1, 1, dtype=torch.int64), None
    while True:
        for _ in range(CHUNK):
            output, state = lstm(model.encoder.embedding(ids), state)
            ids = torch.multinomial(torch.softmax(model.projection(output[0]), dim=-1), 1)
        yield CHUNK


def sample(model: LanguageModel, num_texts: int, filters: Filters) -> Iterator[int]:
    """Sample texts side by side by charlm; yield the number of tokens after each chunk."""
    options = GeneratorOptions(range(num_texts), 1, filters)
    steps = generate(model, [], options, length=10**9)
    while True:
        for _ in range(CHUNK):
            next(steps)
        yield CHUNK * num_texts


def rate(counts: Iterator[int], seconds: float) -> float:
    """Return the sum of the counts per second, after a first chunk that is not timed."""
    next(counts)
    start, total = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        total += next(counts)
    return total / elapsed


def cost(
    model: LanguageModel, tokens_per_second: float, bytes_per_second: float
) -> dict[str, float]:
    """Return what a token of one text costs: the recurrent product and the projection.

    The product with the embedded token is read from a table.
    """
    products = [model.encoder.recurrence.layers[0].recurrent, model.projection]
    read = sum(
        product.transposed.nbytes if isinstance(product, Int8Matrix) else product.weight.nbytes
        for product in products
    )
    return {
        "microseconds": 1e6 / tokens_per_second,
        "multiplications": sum(product.weight.numel() for product in products),
        "bytes": read,
        "bandwidth_fraction": read * tokens_per_second / bytes_per_second,
    }


def bandwidth(seconds: float) -> float:
    """Return the bytes per second at which a large vector is read."""
    numbers = torch.ones(2**26)

    def reads() -> Iterator[int]:
        while True:
            numbers.sum()
            yield numbers.nbytes

    return rate(reads(), seconds)


if __name__ == "__main__":
    run_main(main)
