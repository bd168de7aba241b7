"""Scores of the four example tasks: baselines, and Elman, GRU and LSTM of the shipped sizes.

Each network is trained with the shipped configuration of its task, whose seed is 1, and tested on
the test part of its corpus, which is built from Python. A line of a table has the percentage of
targets that are exactly right, or of labels, the nats per target, and the seconds of training. The
baselines are learned from the training part.

    python benchmarks/tasks.py
    python benchmarks/tasks.py --only classify --cells lstm --set training.steps=600
"""

import argparse
import math
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from cells import add_cells, cell_override
from measuring import (
    add_overrides,
    add_series,
    argument_parser,
    print_environment,
    print_results,
    run_main,
)
from runs import train

import charlm
from charlm.data.cards import build_corpus
from charlm.data.corpus import open_corpus
from charlm.data.pairs import SEPARATOR
from charlm.data.resolve import resolve

CONFIGS = {
    "complete": "number-words",
    "translate": "written-dates",
    "classify": "script-names",
    "tag": "code-kinds",
}
MEASURES = {
    "complete": "exact match",
    "translate": "exact match",
    "classify": "accuracy",
    "tag": "accuracy",
}
# Settings beside the shipped ones: for tags a network that reads forward only; for translations one
# without attention, and a language model of the pairs.
VARIANTS: dict[str, dict[str, list[str]]] = {
    "translate": {
        ", no attention": ["task.attention=none"],
        ", task complete": ["task.kind=complete", "model.direction=forward"],
    },
    "tag": {", forward": ["model.direction=forward"]},
}
Pairs = list[tuple[str, str]]


class Score(NamedTuple):
    """A row of the table.

    Attributes:
        name: Name of a baseline or of a network.
        value: Exact match or accuracy.
        loss_nats: Nats per target; None for baselines without probabilities.
        seconds: Time of the training steps.
    """

    name: str
    value: float
    loss_nats: float | None = None
    seconds: float = 0.0


def main() -> None:
    """Print one table per task, and all as JSON."""
    options = arguments()
    print_environment(*options.overrides)
    results: dict[str, list[dict[str, Any]]] = {}
    for kind in options.only:
        config = charlm.load_config(CONFIGS[kind], options.overrides)
        build_corpus(CONFIGS[kind])
        print(f"\n{kind} ({CONFIGS[kind]}), test part: {MEASURES[kind]}, nats per target, seconds")
        for score in chain(baselines(kind, config), networks(kind, config, options.cells)):
            loss = "" if score.loss_nats is None else f"{score.loss_nats:.4f}"
            print(f"{score.name:<36}{score.value:>9.2%}{loss:>10}{score.seconds:>8.0f}", flush=True)
            results.setdefault(kind, []).append(score._asdict())
    print_results(overrides=options.overrides, tasks=results)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_series(parser, "--only", list(CONFIGS), choices=CONFIGS, help="tasks")
    add_cells(parser, ["elman", "gru", "lstm"])
    add_overrides(parser)
    return parser.parse_args()


def networks(kind: str, config: charlm.Config, cells: Sequence[str]) -> Iterator[Score]:
    """Train a network of each cell as shipped, and with the other settings of `VARIANTS`."""
    for cell in cells:
        for name, settings in ({"": []} | VARIANTS.get(kind, {})).items():
            overrides = [cell_override(cell), *settings]
            changed = charlm.load_config(CONFIGS[kind], overrides)
            yield train_and_score(cell + name, changed, config)


def train_and_score(name: str, changed: charlm.Config, config: charlm.Config) -> Score:
    """Train a network with another cell, direction and task; score it on the test part."""
    config = config.model_copy(update={"model": changed.model, "task": changed.task})
    kind = config.task.kind
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        seconds = train(config, folder).state.seconds
        if config.task.writes_targets:
            load = charlm.load_translator if kind == "translate" else charlm.load
            result = load(folder).completions("test")
            return Score(name, result.exact_match, result.loss_nats, seconds)
        scores = charlm.load_labels(folder).scores("test")
        return Score(name, scores.accuracy, scores.loss_nats, seconds)


def baselines(kind: str, config: charlm.Config) -> Iterator[Score]:
    """Yield the scores of simple methods, learned from the training part."""
    corpus = open_corpus(resolve(config))
    pairs = {
        part: [split(block.decode()) for block, _ in text.blocks()]
        for part, text in corpus.parts.items()
    }
    train_pairs, test_pairs = pairs["train"], pairs["test"]
    if kind in ("complete", "translate"):
        nearest = nearest_source(train_pairs)
        yield Score("target of the nearest source", share_right(nearest, test_pairs))
        return
    if kind == "classify":
        majority = Counter(target for _, target in train_pairs).most_common(1)[0][0]
        yield Score("most frequent label", share_right(lambda _: majority, test_pairs))
        yield Score("bag of words, naive Bayes", share_right(bag_of_words(train_pairs), test_pairs))
        return
    for order in (0, 1, 3, 5, 7):
        name = f"{order}-gram tagger" if order else "most frequent label"
        yield Score(name, ngram_accuracy(train_pairs, test_pairs, order))


def split(record: str) -> tuple[str, str]:
    """Return the source and the target of a record."""
    source, _, target = record.partition(SEPARATOR)
    return source, target


def share_right(predict: Callable[[str], str], pairs: Pairs) -> float:
    """Return the fraction of sources whose target is predicted."""
    return sum(predict(source) == target for source, target in pairs) / len(pairs)


def nearest_source(pairs: Pairs) -> Callable[[str], str]:
    """Return a predictor: the target of the training source with the longest common beginning."""
    ordered = sorted(pairs)

    def predict(source: str) -> str:
        return max(ordered, key=lambda pair: common_beginning(pair[0], source))[1]

    return predict


def common_beginning(first: str, second: str) -> int:
    """Return the number of equal characters at the beginning of two texts."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


def bag_of_words(pairs: Pairs) -> Callable[[str], str]:
    """Return a multinomial naive Bayes classifier of words, with add-one smoothing."""
    labels = Counter(target for _, target in pairs)
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for source, target in pairs:
        words[target].update(source.split())
    size = len({word for counts in words.values() for word in counts})
    totals = {label: counts.total() + size for label, counts in words.items()}

    def predict(source: str) -> str:
        def score(label: str) -> float:
            found = (words[label][word] + 1 for word in source.split())
            return math.log(labels[label]) + sum(math.log(n / totals[label]) for n in found)

        return max(labels, key=score)

    return predict


def ngram_accuracy(train_pairs: Pairs, test_pairs: Pairs, order: int) -> float:
    """Return the accuracy of the most frequent tag of the characters around a character.

    The window has `order` characters with the tagged one in the middle; `order` is odd or 0. One
    that is not in the training text is replaced by the window that is shorter by two characters,
    and in the end by the empty one, for which the most frequent tag of all is the best.
    """
    tables: dict[int, dict[str, Counter[str]]] = {}
    for size in {0, *range(order, 0, -2)}:
        table = tables[size] = defaultdict(Counter)
        for source, target in train_pairs:
            for window, tag in zip(windows(source, size), target, strict=True):
                table[window][tag] += 1
    best = {
        size: {window: counts.most_common(1)[0][0] for window, counts in table.items()}
        for size, table in tables.items()
    }
    sizes = sorted(tables, reverse=True)
    right = total = 0
    for source, target in test_pairs:
        rows = zip(*(windows(source, size) for size in sizes), strict=True)
        for row, tag in zip(rows, target, strict=True):
            found = (best[size].get(window) for size, window in zip(sizes, row, strict=True))
            right += next(filter(None, found)) == tag
            total += 1
    return right / total


def windows(source: str, size: int) -> list[str]:
    """Return the characters around each character, `size` in all."""
    half = size // 2
    padded = "\0" * half + source + "\0" * half
    return [padded[at : at + size] for at in range(len(source))]


if __name__ == "__main__":
    run_main(main)
