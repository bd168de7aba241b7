"""The models of all tasks."""

from collections.abc import Sequence

from charlm.config.model import Model as ModelSection
from charlm.config.task import Task as TaskSection
from charlm.model.label_model import LabelHead, LabelModel
from charlm.model.language_model import LanguageModel
from charlm.model.translation_model import TokenModel, TranslationModel

AnyModel = TokenModel | LabelModel
# What a model is made for, if it is no language model.
Head = LabelHead | TaskSection


def head_of(task: TaskSection, labels: Sequence[str]) -> Head | None:
    """Return what a model is made for; None for a language model, which `complete` trains too."""
    if task.has_labels:
        return LabelHead(task, len(labels))
    return task if task.kind == "translate" else None


def make_model(section: ModelSection, vocabulary_size: int, head: Head | None = None) -> AnyModel:
    """Create the model of a task, or a language model if there is no head."""
    if head is None:
        return LanguageModel(section, vocabulary_size)
    if isinstance(head, LabelHead):
        return LabelModel(section, vocabulary_size, head)
    return TranslationModel(section, vocabulary_size, head)
