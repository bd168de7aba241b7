"""Tokens a second that are written: charlm beside a plain loop over torch.nn.LSTM with torch.multinomial, in one run.

Usage: python benchmarks/sampling.py [--hidden 512] [--vocabulary 65] [--seconds 3] [--rounds 5] [--threads N]

The network is new: speed does not depend on what it has learnt. The plain loop is what most scripts do: embed, run the
layer for one token, project, softmax, draw. All ways are timed in turn, several rounds; the table tells medians, each
as a ratio to the plain loop, and what share of the memory's bandwidth a text alone reaches: its weights are read once
a token.
"""

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
from charlm.sampling.generator import Settings, generate

CHUNK = 50  # Tokens between two looks at the clock.


@torch.inference_mode()
def plain_loop(model: LanguageModel) -> Iterator[int]:
    """Write one token after another in the plain way, yielding how many were written."""
    lstm, ids, state = (
        model.encoder.recurrence.layers[0].kernel,
        torch.zeros(1, 1, dtype=torch.int64),
        None,
    )
    while True:
        for _ in range(CHUNK):
            output, state = lstm(model.encoder.embedding(ids), state)
            ids = torch.multinomial(torch.softmax(model.projection(output[0]), dim=-1), 1)
        yield CHUNK


def written(model: LanguageModel, batch: int, settings: Settings) -> Iterator[int]:
    """Write one token after another by charlm, yielding how many were written."""
    steps = generate(
        model,
        [],
        numbers=range(batch),
        length=10**9,
        settings=settings,
        seed=1,
        stops_at_eos=False,
    )
    while True:
        for _ in range(CHUNK):
            next(steps)
        yield CHUNK * batch


def rate(tokens: Iterator[int], seconds: float) -> float:
    """Return tokens a second, after a first chunk that is not timed."""
    next(tokens)
    began, total = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        total += next(tokens)
    return total / spent


def bandwidth(seconds: float) -> float:
    """Return the bytes a second that a large vector is read with."""
    numbers = torch.ones(2**26)

    def reads() -> Iterator[int]:
        while True:
            numbers.sum()
            yield numbers.nbytes

    return rate(reads(), seconds)


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=65)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="[torch's own choice]")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(1)
    torch.set_flush_denormal(True)
    config = check_config(
        {"model": {"hidden_size": given.hidden, "embedding_size": 64}}, "benchmark"
    )
    model = LanguageModel(config.model, given.vocabulary).eval()
    ways: dict[str, Callable[[], Iterator[int]]] = {
        "plain loop": lambda: plain_loop(model),
        "one text": lambda: written(model, 1, Settings()),
        "one text, top-p 0.9": lambda: written(model, 1, Settings(top_p=0.9)),
        "64 texts": lambda: written(model, 64, Settings()),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            found[name].append(rate(way(), given.seconds))
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    read = sum(
        tensor.nbytes
        for name, tensor in model.named_parameters()
        if "weight_hh" in name or "projection" in name
    )
    share = medians["one text"] * read / bandwidth(given.seconds)
    print(
        f"charlm {charlm.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads, hidden size "
        f"{given.hidden}, vocabulary {given.vocabulary}"
    )
    rows: list[dict[str, Any]] = []
    for name, median in medians.items():
        ratios = [
            rate / plain for rate, plain in zip(found[name], found["plain loop"], strict=True)
        ]
        rows.append(
            {
                "way": name,
                "tokens_per_second": round(median),
                "to_plain_loop": statistics.median(ratios),
            }
        )
        print(
            f"{name:<24} {median:>12,.0f} tokens/s {rows[-1]['to_plain_loop']:>8.2f} of the plain loop"
        )
    print(f"one text reads its weights at {share:.0%} of the memory's bandwidth")
    print(
        json.dumps(
            {
                "threads": torch.get_num_threads(),
                "hidden_size": given.hidden,
                "bandwidth_share": share,
                "ways": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
