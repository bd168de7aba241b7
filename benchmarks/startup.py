"""Time of `charlm --help` beside the time of `python -c pass`: medians of ten, run in turn.

python benchmarks/startup.py
"""

from functools import partial

from measuring import argument_parser, measure_in_turn, medians, run_python, seconds_of

COMMANDS = {"python -c pass": ("-c", "pass"), "charlm --help": ("-m", "charlm", "--help")}
ROUNDS = 10


def main() -> None:
    """Print both medians and their difference."""
    argument_parser(__doc__).parse_args()
    measurements = {
        name: partial(seconds_of, partial(run_python, *arguments))
        for name, arguments in COMMANDS.items()
    }
    measure_in_turn(measurements, 1)  # Reads the files into the page cache of the system.
    seconds = medians(measure_in_turn(measurements, ROUNDS))
    for name, median in seconds.items():
        print(f"{name:<16} {median:.3f} s")
    print(f"{'difference':<16} {seconds['charlm --help'] - seconds['python -c pass']:.3f} s")


if __name__ == "__main__":
    main()
