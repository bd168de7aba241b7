"""What a CUDA GPU makes of charlm: the speed of a step, tiny Shakespeare in three minutes, Penn Treebank in ten.

Runs the other benchmarks on the GPU, one after another: tokens per second and the share of the matrix-product rate at
hidden sizes 512 and 1024; tiny Shakespeare by the config shakespeare-gpu, its loss after given seconds and the time to
the 1.4697 nats that nanoGPT tells of three minutes on an A100; with --ptb, words by the config ptb. Each prints a table
and then JSON. Steps are timed launched kernel by kernel and as one captured graph; the trainings take the graph.

    python benchmarks/cuda.py tinyshakespeare.txt --ptb ptb-train.txt ptb-valid.txt
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch

GRAPH = ["training.device=cuda", "training.cuda_graph=true"]
# 500 epochs of the config's SGD do not fit in ten minutes: here AdamW, whose rate falls to zero over them.
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
    """Run all that is asked for; exit with 1 where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shakespeare", metavar="TINYSHAKESPEARE")
    parser.add_argument("--ptb", nargs=2, metavar=("TRAIN", "VALID"))
    parser.add_argument(
        "--seconds", type=float, default=180, help="of training on tiny Shakespeare [180]"
    )
    parser.add_argument(
        "--minutes", type=float, default=10, help="of training on Penn Treebank [10]"
    )
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="for tiny Shakespeare",
    )
    parser.add_argument("--set-ptb", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(
            "benchmarks/cuda.py: this PyTorch sees no CUDA GPU, and nothing here is measured without one"
        )
    print(
        f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    )
    benchmark(
        "step.py",
        "--device",
        "cuda",
        "--hidden",
        "512",
        "1024",
        "--batches",
        "16",
        "64",
        "128",
        "--launches",
        "eager",
        "graph",
        "--square",
        "8192",
    )
    benchmark(
        "shakespeare.py",
        given.shakespeare,
        "--config",
        "shakespeare-gpu",
        "--seconds",
        str(given.seconds),
        "--time-to",
        "1.4697",
        "1.36",
        "--seeds",
        *given.seeds,
        *settings(GRAPH),
        *settings(given.overrides),
    )
    if given.ptb:
        benchmark(
            "words.py",
            *given.ptb,
            "--configs",
            "ptb",
            "--minutes",
            str(given.minutes),
            *settings([*GRAPH, *PTB_IN_MINUTES, *given.set_ptb]),
        )


def benchmark(name: str, *arguments: str) -> None:
    """Run another of the benchmarks; stop where it fails."""
    print(f"\n{name} {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, Path(__file__).with_name(name), *arguments])
    if done.returncode:
        sys.exit(done.returncode)


def settings(overrides: list[str]) -> list[str]:
    """Return overrides as they are given on a command line."""
    return [argument for override in overrides for argument in ("--set", override)]


if __name__ == "__main__":
    main()
