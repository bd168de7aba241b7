"""The results that a report shows: those of a run folder, and those of the measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from charlm.config.values import check_counts, checked
from charlm.errors import OptionError, quote
from charlm.evaluation.comparison import Comparison
from charlm.evaluation.probes.agreement import Agreement
from charlm.evaluation.probes.cells import Cells, Tracks
from charlm.evaluation.probes.context import Context
from charlm.evaluation.probes.embeddings import Embeddings
from charlm.evaluation.probes.gates import Gates
from charlm.evaluation.probes.gradients import Gradients
from charlm.evaluation.probes.known_letters import LetterAccuracy
from charlm.evaluation.probes.memory import Memory
from charlm.evaluation.probes.passage import Passage
from charlm.evaluation.surprisal import Surprisal
from charlm.tasks.attention import Attention
from charlm.tasks.completion import Completions
from charlm.tasks.label_run import TrainedLabelModel
from charlm.tasks.labels import LabelScores
from charlm.trained_model import TrainedModel, TrainedTranslator

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
AnyTrained = TrainedModel | TrainedTranslator | TrainedLabelModel
TaskScores = LabelScores | Completions


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


@dataclass(frozen=True)
class Reason:
    """Why a measure is not defined for a run.

    Attributes:
        text: One sentence.
    """

    text: str


@dataclass(frozen=True, kw_only=True)
class RunMeasurements:
    """The results of one run; a measure that is not defined for it is a `Reason`.

    A measure that was not asked for is None.

    Attributes:
        number: Position of the run in the report, which selects its colour and its marker.
        name: Name of the run: that of its folder.
        trained: The model, for facts about it.
        metrics: Lines of metrics.jsonl that have a score.
        samples: Lines of samples.jsonl.
        tensors: Name, shape and size of each parameter.
    """

    number: int
    name: str
    trained: AnyTrained
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    tensors: list[tuple[str, tuple[int, ...], int]]
    task: TaskScores | Reason | None = None
    attention: list[Attention] | Reason | None = None
    passage: Passage | Reason | None = None
    surprisal: Surprisal | Reason | None = None
    letters: LetterAccuracy | Reason | None = None
    memory: Memory | Reason | None = None
    context: Context | Reason | None = None
    gradients: Gradients | Reason | None = None
    cells: Cells | Reason | None = None
    tracks: Tracks | Reason | None = None
    gates: Gates | Reason | None = None
    embeddings: Embeddings | Reason | None = None
    agreement: Agreement | Reason | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(size for _, _, size in self.tensors)

    @property
    def has_task(self) -> bool:
        """Whether the model has learned a task, and is no model of whole texts."""
        return self.trained.config.task.has_pairs

    @property
    def is_backward(self) -> bool:
        """Whether the model reads the text from its end."""
        return self.trained.model.direction == "backward"


@dataclass(frozen=True)
class Measurements:
    """The results of all runs of a report.

    Attributes:
        runs: Results of each run.
        comparison: Scores on the same text, with intervals; None for one run.
    """

    runs: list[RunMeasurements]
    comparison: Comparison | Reason | None
