"""What writes the texts of `charlm sample`: a run on this machine, or a server."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from charlm.sampling.options import SampleOptions

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import Run
    from charlm.sampling.sample import Sample
    from charlm.serving.client import RemoteRun


class Writer(Protocol):
    """A run that writes texts, on this machine or on a server."""

    @property
    def record_separator(self) -> str | None:
        """What the corpus has between two records; None if it has nothing, or no records."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Run and step, for JSON."""
        ...

    def write(self, options: SampleOptions) -> "list[Sample]":
        """Write texts."""
        ...

    def write_stream(self, options: SampleOptions) -> Iterator[str]:
        """Write one text, yielding its pieces."""
        ...


@dataclass(frozen=True)
class LocalRun:
    """A run on this machine.

    Attributes:
        run: The run.
        state_out: File to write the state of a text to, or None.
    """

    run: "Run"
    state_out: Path | None

    @property
    def record_separator(self) -> str | None:
        """What the corpus has between two records; None if it has nothing, or no records."""
        return self.run.trained.record_separator

    @property
    def facts(self) -> dict[str, Any]:
        """Run and step, for JSON."""
        from charlm.trained_model import provenance

        facts = provenance(self.run.trained)
        return {name: facts[name] for name in ("run", "step", "products") if name in facts}

    def write(self, options: SampleOptions) -> "list[Sample]":
        """Write texts."""
        from charlm.api import sample_to_file

        return sample_to_file(self.run.trained, options, self.state_out)

    def write_stream(self, options: SampleOptions) -> Iterator[str]:
        """Write one text, yielding its pieces."""
        from charlm.api import stream_to_file

        return stream_to_file(self.run.trained, options, self.state_out)


def connect_to(url: str, run: Path | None, api_key_file: Path | None) -> "RemoteRun":
    """Connect to a server.

    Args:
        url: Address of the server.
        run: Path whose last part is the name of a run there; None for its first run.
        api_key_file: File with the key of the server, or None.
    """
    from charlm.serving.client import connect
    from charlm.serving.options import read_api_key

    api_key = None if api_key_file is None else read_api_key(api_key_file)
    return connect(url, model=None if run is None else run.name, api_key=api_key)
