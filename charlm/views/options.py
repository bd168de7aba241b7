"""What a report shows; checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from charlm.config.values import check_counts, checked
from charlm.errors import OptionError, quote
from charlm.storage.arguments import refuse_file_name

SECTIONS = (
    "curves",
    "task",
    "network",
    "surprisal",
    "memory",
    "context",
    "cells",
    "embeddings",
    "agreement",
)
_OF_TEXT = ("surprisal", "memory", "cells")  # Sections that show the passage.
_MIN_TEXT = 2  # A prediction depends on an earlier character.


@checked
@dataclass(frozen=True)
class ReportOptions:
    """What a report shows.

    Attributes:
        text: Passage to show; None for the beginning of the first run's validation split.
        sections: Names of the sections to show.
        passage_tokens: Most tokens of the passage.
        memory_tokens: Most tokens of the memory figure, whose work grows with the square.
        probe_tokens: Most tokens of held-out text that the measures of units and letters read;
            those that read it one token after the other read half of them.
        context_targets: Number of tokens that are predicted from contexts of each length.
        task_records: Most records of the validation split that a model of a task is scored on; one
            that writes targets is scored on a quarter of them.
    """

    text: str | None = None
    sections: Sequence[str] = SECTIONS
    passage_tokens: int = 400
    memory_tokens: int = 120
    probe_tokens: int = 10_000
    context_targets: int = 500
    task_records: int = 2_000

    def __post_init__(self) -> None:
        """Raise OptionError if a value is out of range, or a section is missing or unknown."""
        check_counts(
            passage_tokens=self.passage_tokens,
            memory_tokens=self.memory_tokens,
            probe_tokens=self.probe_tokens,
            context_targets=self.context_targets,
            task_records=self.task_records,
        )
        refuse_file_name("text", self.text, "give what the file contains")
        if self.text is not None and len(self.text.strip()) < _MIN_TEXT:
            problem = f"must have at least {_MIN_TEXT} characters besides spaces"
            raise OptionError("text", problem, value=self.text)
        for name in self.sections:
            if name not in SECTIONS:
                near = get_close_matches(name, SECTIONS, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                known = f"the sections are {', '.join(SECTIONS)}"
                raise OptionError("sections", f"has no section {quote(name)}; {hint}{known}")
        if self.text is not None and not set(_OF_TEXT) & set(self.sections):
            problem = f"has no section that shows the text; add one of {', '.join(_OF_TEXT)}"
            raise OptionError("sections", problem)
