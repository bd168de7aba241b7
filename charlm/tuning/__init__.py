"""Search for settings with Optuna, an optional dependency (extra `tune`)."""

from charlm.errors import CharlmError

try:
    import optuna as optuna
except ModuleNotFoundError as error:
    raise CharlmError(
        "charlm tune: needs Optuna, which is not installed: pip install 'charlm[tune]'"
    ) from error
