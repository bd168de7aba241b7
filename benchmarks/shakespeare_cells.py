"""What each recurrence makes of tiny Shakespeare in equal time with equal parameters.

Every network is the one of configs/shakespeare.yaml but for its recurrence and its size, which is chosen so that all
have as many parameters as an LSTM of --hidden units, within three in a hundred. Each trains for --seconds on its own,
so the machine must have nothing else to do; the loss is of the whole validation split, scored exactly afterwards. One
that diverges, or ends worse than guessing, begins again with a quarter of the rate; the table shows the rate.

    python benchmarks/shakespeare_cells.py tinyshakespeare.txt --seconds 60
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch

import charlm
from charlm.config.schema import Model
from charlm.errors import DivergenceError
from charlm.model.language_model import LanguageModel

CELLS = {
    "bag": "{kind: bag}",
    "elman, tanh": "{kind: elman}",
    "elman, relu": "{kind: elman, activation: relu}",
    "elman, sigmoid": "{kind: elman, activation: sigmoid}",
    "gru, reset after": "{kind: gru}",
    "gru, reset before": "{kind: gru, reset: before}",
    "gru, reset none": "{kind: gru, reset: none}",
    "lstm": "{kind: lstm}",
    "lstm, peepholes": "{kind: lstm, peepholes: [input, forget, output]}",
    "lstm, full peepholes": "{kind: lstm, peepholes: [input, forget, output], peephole_weights: full}",
    "lstm, no input gate": "{kind: lstm, without: input_gate}",
    "lstm, no forget gate": "{kind: lstm, without: forget_gate}",
    "lstm, no output gate": "{kind: lstm, without: output_gate}",
    "lstm, no input activation": "{kind: lstm, without: input_activation}",
    "lstm, no output activation": "{kind: lstm, without: output_activation}",
    "lstm, coupled": "{kind: lstm, coupled: true}",
    "lstm, full gate recurrence": "{kind: lstm, full_gate_recurrence: true}",
    "nested lstm": "{kind: nested_lstm}",
    "mogrifier lstm": "{kind: mogrifier_lstm}",
    "min gru": "{kind: min_gru}",
    "min lstm": "{kind: min_lstm}",
}
TOLERANCE = 0.03


def main() -> None:
    """Train all in turn; print a line each, and all as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text")
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"of: {'; '.join(CELLS)} [all]")
    parser.add_argument(
        "--hidden", type=int, default=256, help="units of the LSTM whose parameters all have"
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE"
    )
    given = parser.parse_args()
    vocabulary = len(set(Path(given.text).read_text(encoding="utf-8"))) + 2
    target = parameters(CELLS["lstm"], given.hidden, vocabulary)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {target:,} parameters, {given.seconds:g} s each"
    )
    print(
        f"{'recurrence':<27} {'size':>6} {'parameters':>10} {'steps':>6} {'rate':>8} {'nats':>7} {'bits':>6}"
    )
    rows = [measure(name, target, vocabulary, given) for name in given.cells or CELLS]
    print(json.dumps(rows))


def measure(
    name: str, target: int, vocabulary: int, given: argparse.Namespace
) -> dict[str, object]:
    """Train one recurrence; print and return what came of it."""
    size = fitting_size(CELLS[name], target, vocabulary)
    overrides = [
        f"corpus.text={json.dumps([given.text])}",
        f"training.minutes={given.seconds / 60}",
        "training.evaluations=1",
        *settings(CELLS[name], size),
        *given.overrides,
    ]
    rate = charlm.load_config("shakespeare", overrides).training.learning_rate
    while True:
        config = charlm.load_config("shakespeare", [*overrides, f"training.learning_rate={rate}"])
        try:
            with tempfile.TemporaryDirectory() as folder:
                run = charlm.train(config, out=Path(folder) / "run")
                score = run.perplexity()
            if score.loss_nats < math.log(vocabulary):  # Of guessing.
                break
        except DivergenceError:
            pass
        rate /= 4
    count = parameters(CELLS[name], size, vocabulary)
    print(
        f"{name:<27} {size:>6} {count:>10,} {run.state['step']:>6,} {rate:>8.2g} {score.loss_nats:>7.4f} "
        f"{score.bits_per_character:>6.3f}",
        flush=True,
    )
    return {
        "recurrence": name,
        "size": size,
        "parameters": count,
        "steps": run.state["step"],
        "rate": rate,
        "loss_nats": score.loss_nats,
        "bits_per_character": score.bits_per_character,
    }


def settings(cell: str, size: int) -> list[str]:
    """Return the overrides for a recurrence of `size` units; a bag is as wide as its embedding, its sum normalized."""
    width = (
        [f"model.embedding_size={size}", "model.layer_norm=true"]
        if "bag" in cell
        else [f"model.hidden_size={size}"]
    )
    return [f"model.cell={cell}", *width]


def parameters(cell: str, size: int, vocabulary: int) -> int:
    """Count the parameters of the network with `size` units."""
    section: Model = charlm.load_config("shakespeare", settings(cell, size)).model
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in LanguageModel(section, vocabulary).parameters())


def fitting_size(cell: str, target: int, vocabulary: int) -> int:
    """Return the size whose parameters are nearest to `target`, by bisection."""
    low, high = 1, 1 << 14
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (middle, high) if parameters(cell, middle, vocabulary) <= target else (low, middle)
        )
    size = min((low, high), key=lambda size: abs(parameters(cell, size, vocabulary) - target))
    if abs(parameters(cell, size, vocabulary) - target) > TOLERANCE * target:
        raise SystemExit(f"{cell}: no size comes within {TOLERANCE:.0%} of {target:,} parameters")
    return size


if __name__ == "__main__":
    main()
