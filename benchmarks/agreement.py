"""What recurrences of one size remember: how often the verb agrees with a subject so many words back.

Trains each on the corpus agreement, by words, for the same steps, and asks it about sentences that it never saw. No
word between subject and verb tells the number, so a network that does not remember the subject is right half the time.

    python benchmarks/agreement.py elman gru lstm --hidden 64 --steps 2000
"""

import argparse
import json
import tempfile
from pathlib import Path

import charlm
from charlm.evaluation.probes.agreement import Agreement


def measure(cell: str, overrides: list[str], longest: int) -> tuple[charlm.Run, Agreement]:
    """Train one recurrence and ask it."""
    config = charlm.load_config(None, ["corpus.text=agreement", f"model.cell={cell}", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        run = charlm.train(config, out=Path(folder) / "run")
        return run, run.agreement(sentences=4000, longest=longest)


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cells",
        nargs="*",
        default=["elman", "lstm"],
        help="such as gru, or '{kind: gru, reset: none}'",
    )
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument(
        "--longest",
        type=int,
        default=4,
        help="most phrases between subject and verb; 4 while training",
    )
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE"
    )
    given = parser.parse_args()
    overrides = [
        f"model.hidden_size={given.hidden}",
        f"training.steps={given.steps}",
        "training.batch_size=64",
        "training.evaluations=1",
        *given.overrides,
    ]
    rows = {cell: measure(cell, overrides, given.longest) for cell in given.cells}
    spans = {
        (row["distance_from"], row["distance_to"])
        for _, found in rows.values()
        for row in found.by_distance
    }
    print(
        f"{'words between':<24}"
        + "".join(f"{_span(*span):>8}" for span in sorted(spans))
        + f"{'all':>8}{'valid':>8}"
    )
    for cell, (run, found) in rows.items():
        shares = [f"{row['accuracy']:>8.1%}" for row in found.by_distance]
        print(
            f"{cell:<24}"
            + "".join(shares)
            + f"{found.accuracy:>8.1%}{run.state['best_loss_nats']:>8.3f}"
        )
    print(json.dumps({cell: found.to_json() for cell, (_, found) in rows.items()}))


def _span(first: int, last: int | None) -> str:
    return f"{first}+" if last is None else str(first) if first == last else f"{first}-{last}"


if __name__ == "__main__":
    main()
