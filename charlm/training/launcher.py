"""Whether torchrun has started this process."""

import os
from collections.abc import Mapping

from charlm.errors import GroupError


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether torchrun, or a launcher with the same variables, has started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys()


def check_single_process(environment: Mapping[str, str] = os.environ) -> None:
    """Check that no launcher has started this process beside others.

    Raises:
        GroupError: There are others; each would train the whole run for itself.
    """
    if is_launched(environment) and environment["WORLD_SIZE"] != "1":
        raise GroupError(
            "torchrun: Python functions such as charlm.train use one process, got WORLD_SIZE="
            f"{environment['WORLD_SIZE']}; start the command line: torchrun ... -m charlm train "
            "... --out DIR (docs/scale.md)"
        )
