"""The program `charlm`, also as `python -m charlm`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is imported ends it in one line, too."""
    try:
        from charlm.cli.main import main as run_command_line

        run_command_line()
    except KeyboardInterrupt:
        sys.stderr.write("charlm: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
