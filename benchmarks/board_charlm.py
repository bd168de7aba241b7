"""Contestant of the board: charlm, with automatic settings or a configuration.

The automatic settings were compared with searches on tiny Shakespeare (docs/lab/2026-11-27.md), and
the configuration `shakespeare` was chosen on its last tenth.

The weights of the last step are scored. Validation during the training reads the held-out text, but
nothing is chosen with it: the budget and the schedule do not depend on it, and the checkpoint with
the lowest validation loss is not used. It prints the JSON of `board_peer.Result`, in nats per
character.

The arguments are the texts, the minutes and the seed:

    python benchmarks/board_charlm.py train.txt held-out.txt 1 1
    python benchmarks/board_charlm.py train.txt held-out.txt 1 1 --config shakespeare
"""

import argparse
import json
import math
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from unittest import mock

from board_peer import Result, add_task
from measuring import add_overrides, argument_parser, run_main, text_override
from runs import count_parameters, describe_settings, train

import charlm
from charlm.errors import CharlmError


def main() -> None:
    """Train, score and print the result."""
    options = arguments()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, CHARLM_CACHE=f"{folder}/cache"),
    ):
        print(json.dumps(asdict(measure(options, Path(folder) / "run"))))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = add_task(argument_parser(__doc__))
    parser.add_argument("--config", help="configuration, instead of automatic settings")
    add_overrides(parser)
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> Result:
    """Train and score one run."""
    config = configure(options)
    origin = f"configuration {options.config}" if options.config else "automatic"
    experiment = train(config, folder)
    score = charlm.load(folder, which="last").perplexity(split="valid")
    if score.bits_per_character is None:
        raise CharlmError("the tokens do not represent the whole text")
    state = experiment.state
    return Result(
        loss_nats=score.bits_per_character * math.log(2),
        characters=score.characters,
        parameters=count_parameters(experiment.model),
        steps=state.step,
        training_seconds=state.seconds,
        settings=", ".join([origin, *describe_settings(config)]),
    )


def configure(options: argparse.Namespace) -> charlm.Config:
    """Return the automatic settings, or those of a configuration with the texts and the budget."""
    texts = [text_override(options.held_out, "corpus.valid_text"), *options.overrides]
    if options.config is None:
        budget = {"minutes": options.minutes, "seed": options.seed}
        return charlm.choose(options.train, overrides=texts, **budget).config
    budget = [f"training.minutes={options.minutes}", f"training.seed={options.seed}"]
    no_share = "corpus.valid_share=0"
    return charlm.load_config(
        options.config, [text_override(options.train), no_share, *budget, *texts]
    )


if __name__ == "__main__":
    run_main(main)
