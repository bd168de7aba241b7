"""Whether torchrun has started this process."""

import os

from charlm.errors import GroupError


def is_launched() -> bool:
    """Return whether torchrun, or a launcher with the same variables, has started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def check_single_process() -> None:
    """Check that no launcher has started this process beside others.

    Raises:
        GroupError: There are others; each would train the whole run for itself.
    """
    if is_launched() and os.environ["WORLD_SIZE"] != "1":
        raise GroupError(
            "torchrun: Python functions such as charlm.train use one process, got WORLD_SIZE="
            f"{os.environ['WORLD_SIZE']}; start the command line: torchrun ... -m charlm train "
            "... --out DIR (docs/scale.md)"
        )
