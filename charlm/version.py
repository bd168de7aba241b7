"""The version of charlm, and the name under which it is installed."""

VERSION = "0.1.0"
# The name charlm belongs to another project on the package index. Import and command are charlm.
DISTRIBUTION = "charlm-rnn"


def install_hint(extra: str) -> str:
    """Return the command that installs charlm with an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
