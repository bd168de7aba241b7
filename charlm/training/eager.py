"""Optimizers of torch without torch.compile, whose import takes two seconds."""

import inspect
from typing import TypeVar

import torch
from torch.optim import Optimizer

_Kind = TypeVar("_Kind", bound=Optimizer)


def eager(optimizer: type[_Kind]) -> type[_Kind]:
    """Return a class of torch's optimizers without the wrappers of its methods for torch.compile.

    The first call of such a wrapper imports the compiler, although nothing is compiled here.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "step")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    methods["step"] = torch.no_grad()(methods["step"])
    return type(optimizer.__name__, (optimizer,), methods)
