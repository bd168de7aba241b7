"""Results on one CUDA GPU: speed of a step, tiny Shakespeare in minutes, Penn Treebank in ten.

Runs other benchmarks on the GPU, one after another. Each prints a table and then JSON:

- `step.py`: tokens per second and rate relative to a matrix product, at hidden sizes 512 and 1024,
  with one launch per kernel and with one captured CUDA graph per step
- `configs.py` with the configuration `shakespeare-gpu`: the loss in nats per character after each
  of the --minutes, to compare with the 1.4697 nats that nanoGPT states for three minutes on an A100
- with --ptb, `words.py` with the configuration `ptb` for ten minutes: perplexity

The trainings use the CUDA graph.

    python benchmarks/gpu.py tinyshakespeare.txt --ptb ptb-train.txt ptb-valid.txt
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from measuring import (
    add_options,
    add_overrides,
    add_text,
    argument_parser,
    override_arguments,
    run_main,
)

from charlm.errors import CharlmError

GRAPH = ["training.device=cuda", "training.cuda_graph=true"]
# The configuration's 500 epochs of SGD do not fit into ten minutes. AdamW replaces SGD, with a
# learning rate that falls to zero over the ten minutes.
PTB_IN_MINUTES = [
    "training.optimizer=adamw",
    "training.learning_rate=3e-3",
    "training.weight_decay=0.1",
    "training.decay_embeddings=false",
    "training.decay_biases=false",
    "training.beta1=0.9",
    "training.batch_size=64",
    "training.warmup_steps=100",
    "training.schedule=linear",
    "training.averaging=none",
    "training.evaluations=10",
    "training.clipnorm=70",
]


def main() -> None:
    """Run all benchmarks; exit with status 1 if there is no GPU."""
    options = arguments()
    if not torch.cuda.is_available():
        raise CharlmError("needs a CUDA GPU, but this PyTorch finds no CUDA GPU")
    print(
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}"
    )
    for name, *command in commands(options):
        print(f"\n{name} {' '.join(command)}", flush=True)
        program = [sys.executable, str(Path(__file__).with_name(name)), *command]
        ended = subprocess.run(program, check=False)
        if ended.returncode:
            sys.exit(ended.returncode)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_text(parser)
    parser.add_argument(
        "--ptb", nargs=2, metavar=("TRAIN", "VALID"), help="files with Penn Treebank"
    )
    add_options(parser, minutes=[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.0], seeds=[1, 2, 3])
    add_overrides(parser, "override a setting for tiny Shakespeare; can be repeated")
    return parser.parse_args()


def commands(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the name and the arguments of each benchmark."""
    step = "--hidden 512 1024 --batch 16 64 128 --launch eager graph --square 8192"
    yield ["step.py", "--device", "cuda", *step.split()]
    minutes, seeds = map(str, options.minutes), map(str, options.seeds)
    settings = override_arguments([*GRAPH, *options.overrides])
    text = f"shakespeare-gpu={options.text}"
    yield ["configs.py", text, "--minutes", *minutes, "--seeds", *seeds, *settings]
    if options.ptb:
        settings = override_arguments([*GRAPH, *PTB_IN_MINUTES])
        yield ["words.py", *options.ptb, "--configs", "ptb", *settings]


if __name__ == "__main__":
    run_main(main)
