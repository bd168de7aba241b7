"""Results on one CUDA GPU: speed of a step, tiny Shakespeare in minutes, Penn Treebank in ten.

Runs other benchmarks on the GPU, one after another. Each prints a table and then JSON:

- `step.py`: tokens per second and rate relative to a matrix product, at hidden sizes 512 and 1024,
  with one launch per kernel and with one captured CUDA graph per step
- `shakespeare.py` with the configuration `shakespeare-gpu`: the loss after N seconds, and the times
  to 1.36 nats and to the 1.4697 nats that nanoGPT states for three minutes on an A100
- with --ptb, `words.py` with the configuration `ptb`

The trainings use the CUDA graph.

    python benchmarks/gpu.py tinyshakespeare.txt --ptb ptb-train.txt ptb-valid.txt
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from measuring import add_overrides, add_seeds, argument_parser, override_arguments

GRAPH = ["training.device=cuda", "training.cuda_graph=true"]
NANOGPT_LOSS = "1.4697"
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
STEP_ARGUMENTS = (
    "--device cuda --hidden 512 1024 --batches 16 64 128 --launches eager graph --square 8192"
)


def main() -> None:
    """Run all benchmarks; exit with status 1 if there is no GPU."""
    options = arguments()
    if not torch.cuda.is_available():
        sys.exit("gpu.py: needs a CUDA GPU, but this PyTorch finds no CUDA GPU")
    print(
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}"
    )
    run_benchmark("step.py", *STEP_ARGUMENTS.split())
    run_benchmark("shakespeare.py", *shakespeare_arguments(options))
    if options.ptb:
        run_benchmark("words.py", *ptb_arguments(options))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("shakespeare", metavar="TINYSHAKESPEARE", help="file with the text")
    parser.add_argument(
        "--ptb", nargs=2, metavar=("TRAIN", "VALID"), help="files with Penn Treebank"
    )
    parser.add_argument(
        "--seconds", type=float, default=180, help="training time on tiny Shakespeare [180]"
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="training time on Penn Treebank [10]"
    )
    add_seeds(parser, [1, 2, 3])
    add_overrides(parser, "override a setting for tiny Shakespeare; can be repeated")
    parser.add_argument(
        "--set-ptb",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting for Penn Treebank; can be repeated",
    )
    return parser.parse_args()


def shakespeare_arguments(options: argparse.Namespace) -> list[str]:
    """Return the command line of `shakespeare.py`."""
    return [
        options.shakespeare,
        "--config",
        "shakespeare-gpu",
        "--seconds",
        str(options.seconds),
        "--time-to",
        NANOGPT_LOSS,
        "1.36",
        "--seeds",
        *map(str, options.seeds),
        *override_arguments([*GRAPH, *options.overrides]),
    ]


def ptb_arguments(options: argparse.Namespace) -> list[str]:
    """Return the command line of `words.py`."""
    return [
        *options.ptb,
        "--configs",
        "ptb",
        "--minutes",
        str(options.minutes),
        *override_arguments([*GRAPH, *PTB_IN_MINUTES, *options.set_ptb]),
    ]


def run_benchmark(name: str, *command: str) -> None:
    """Run another benchmark; exit with its status if it fails."""
    print(f"\n{name} {' '.join(command)}", flush=True)
    ended = subprocess.run([sys.executable, Path(__file__).with_name(name), *command], check=False)
    if ended.returncode:
        sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
