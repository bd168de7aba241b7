"""The results that a report shows: those of a run folder, and those of the measures."""

from dataclasses import dataclass
from typing import Any

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

AnyTrained = TrainedModel | TrainedTranslator | TrainedLabelModel
TaskScores = LabelScores | Completions


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
