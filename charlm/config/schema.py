"""The configuration: its sections, and what holds between them."""

from typing import Any

from pydantic import Field, ValidationError, model_validator

from charlm.config.corpus import Corpus, ResolvedCorpus
from charlm.config.mistakes import describe_mistakes
from charlm.config.model import Model
from charlm.config.section import Section
from charlm.config.task import Task
from charlm.config.tokenizer import Tokenizer
from charlm.config.training import Checkpoint, Training
from charlm.errors import ConfigError

# Settings that a task cannot have, by section and field: the only possible values, and whether
# this holds for labels only.
_POSSIBLE_IN_TASKS: tuple[tuple[str, str, tuple[object, ...], bool], ...] = (
    ("corpus", "mode", (None, "records"), False),
    ("corpus", "field", (None,), False),
    ("training", "replay", (0.0,), False),
    ("model", "mixture", (1,), True),
    ("model", "adaptive_cutoffs", ((),), True),
    ("model", "tied", (False,), True),
    ("training", "activation_regularization", (0.0,), True),
    ("training", "temporal_regularization", (0.0,), True),
)


class Config(Section):
    """The configuration of an experiment; `load_config` makes one from a file and overrides.

    config = charlm.Config(corpus={"text": "novel.txt"}, model={"hidden_size": 256})
    """

    corpus: Corpus = Field(Corpus.model_validate({}), description="The text.")
    tokenizer: Tokenizer = Field(
        Tokenizer.model_validate({}), description="How text is divided into tokens."
    )
    task: Task = Field(Task.model_validate({}), description="What the network learns.")
    model: Model = Field(Model.model_validate({}), description="The network.")
    training: Training = Field(
        Training.model_validate({}), description="How the network is trained."
    )
    checkpoint: Checkpoint = Field(
        Checkpoint.model_validate({}), description="When checkpoints are saved."
    )

    def __init__(self, **sections: Any) -> None:
        """Make a configuration from sections, which may be dicts.

        Raises:
            ConfigError: One line with every mistake.
        """
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise ConfigError(f"Config: {describe_mistakes(error, type(self))}") from None

    # pydantic calls only other constructors from `model_validate`, whose errors `load` describes.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _has_training_text(self) -> "Config":
        held_out = (self.corpus.valid_share or 0) + (self.corpus.test_share or 0)
        if held_out >= 1:
            raise ValueError(
                "corpus.valid_share and corpus.test_share: leave no training text; "
                f"their sum must be less than 1, got {held_out}"
            )
        return self

    @model_validator(mode="after")
    def _settings_suit_the_task(self) -> "Config":
        task = self.task
        if not task.has_pairs:
            for name in ("source", "target"):
                if getattr(self.corpus, name) is not None:
                    raise ValueError(
                        f"corpus.{name}: has no effect without a task, got "
                        f"{getattr(self.corpus, name)!r:.60}; set task.kind, or remove it"
                    )
            return self
        for section, field, possible, for_labels in _POSSIBLE_IN_TASKS:
            value = getattr(getattr(self, section), field)
            if value not in possible and (task.has_labels or not for_labels):
                raise ValueError(
                    f"{section}.{field}: is not possible with task.kind: {task.kind}, got "
                    f"{value!r:.60}; remove it"
                )
        if self.model.direction not in task.directions:
            raise ValueError(
                f"model.direction: must be {' or '.join(task.directions)} with task.kind: "
                f"{task.kind}, got {self.model.direction}; change one of the two"
            )
        return self


class ResolvedConfig(Config):
    """A configuration in which every field of the corpus has a value; a run is made from it."""

    corpus: ResolvedCorpus = Field(description="The text.")
