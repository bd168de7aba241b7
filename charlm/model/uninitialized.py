"""Models without initial weights: to learn their shapes, or to load weights from a file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from charlm.config.model import Model as ModelSection
from charlm.config.task import Task as TaskSection
from charlm.model.any_model import AnyModel, Head, make_model
from charlm.model.label_model import LabelHead, LabelModel
from charlm.model.language_model import LanguageModel
from charlm.model.translation_model import TranslationModel

_DRAWING = {Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.log_normal_}


def model_of_shapes(
    section: ModelSection, vocabulary_size: int, head: Head | None = None
) -> AnyModel:
    """Create a model whose tensors have names and shapes, but neither memory nor values."""
    with torch.device("meta"), _nothing_drawn():
        return make_model(section, vocabulary_size, head)


def uninitialized_model(section: ModelSection, vocabulary_size: int) -> LanguageModel:
    """Create a model whose weights are arbitrary until they are loaded. Buffers have values."""
    with _nothing_drawn():
        return LanguageModel(section, vocabulary_size)


def uninitialized_label_model(
    section: ModelSection, vocabulary_size: int, head: LabelHead
) -> LabelModel:
    """Create a model of labels whose weights are arbitrary until they are loaded."""
    with _nothing_drawn():
        return LabelModel(section, vocabulary_size, head)


def uninitialized_translation_model(
    section: ModelSection, vocabulary_size: int, task: TaskSection
) -> TranslationModel:
    """Create an encoder and a decoder whose weights are arbitrary until they are loaded."""
    with _nothing_drawn():
        return TranslationModel(section, vocabulary_size, task)


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Leave out the random initial values of parameters.

    Drawing takes time, and drawing on the meta device makes torch import its compiler, which takes
    two seconds. Tensors that are not parameters are drawn as usual.
    """
    mode = _Undrawn()
    hook = register_module_parameter_registration_hook(mode.register)
    try:
        with mode:
            yield
    finally:
        hook.remove()


class _Undrawn(TorchFunctionMode):
    """Skips functions that draw values into the memory of a registered parameter."""

    def __init__(self) -> None:
        super().__init__()
        self._parameters: dict[int, nn.Parameter] = {}  # By address, which stays taken.

    def register(self, module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        """Remember the memory of a parameter of a new module."""
        self._parameters[parameter.untyped_storage().data_ptr()] = parameter

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if function in _DRAWING or getattr(function, "__module__", None) == "torch.nn.init":
            tensor: Tensor = args[0] if args else named["tensor"]
            if tensor.is_meta or tensor.untyped_storage().data_ptr() in self._parameters:
                return tensor
        return function(*args, **named)
