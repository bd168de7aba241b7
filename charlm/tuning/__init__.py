"""Search for settings with Optuna, an optional dependency (extra `tune`)."""

from charlm.errors import CharlmError
from charlm.version import install_hint

try:
    import optuna as optuna
except ModuleNotFoundError as error:
    raise CharlmError(
        f"charlm tune: needs Optuna, which is not installed: {install_hint('tune')}"
    ) from error
