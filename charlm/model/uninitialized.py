"""Models without initial weights: to learn their shapes, or to load weights from a file."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from charlm.config.model import Model as ModelSection
from charlm.model.any_model import AnyModel, Head, make_model

_Arguments = ParamSpec("_Arguments")
_Model = TypeVar("_Model", bound=nn.Module)

_DRAWING = {Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.log_normal_}


def model_of_shapes(
    section: ModelSection, vocabulary_size: int, head: Head | None = None
) -> AnyModel:
    """Create a model whose tensors have names and shapes, but neither memory nor values."""
    with torch.device("meta"), _nothing_drawn():
        return make_model(section, vocabulary_size, head)


def uninitialized(
    make: Callable[_Arguments, _Model], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Model:
    """Create a model whose weights are arbitrary until they are loaded. Buffers have values.

    Args:
        make: Class of the model, or a function that makes it.
        args: Its arguments, such as the section of the configuration and the vocabulary size.
        kwargs: Its keyword arguments.
    """
    with _nothing_drawn():
        return make(*args, **kwargs)


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
        # Parameters by the address of their memory, which they keep from being used again.
        self._parameters: dict[int, nn.Parameter] = {}

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
