"""The optimizer of a configuration, with its parameter groups."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from charlm.config.training import Training as TrainingSection
from charlm.model.language_model import named_weights
from charlm.training.eager import eager
from charlm.training.muon import GatewiseMuon, ParameterGroups, gate_rows
from charlm.training.rows import RowUpdates, tables


def make_optimizer(
    model: nn.Module, section: TrainingSection, *, precision: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """Create the optimizer that `section` names.

    NAdam is Dozat's (2016), with weight decay apart from the gradient as in AdamW (Loshchilov and
    Hutter 2019).

    Args:
        model: Model whose parameters are trained.
        section: Optimizer, learning rate, decay of the means, and weight decay: on matrices, and if
            configured on embeddings and biases. The hash tables of n-grams have their own steps.
        precision: Type of Muon's matrix products.
    """
    recurrent = gate_rows(model) if section.optimizer == "muon" else {}
    hashed = tables(model)
    groups = _parameter_groups(model, section, except_for={*recurrent, *hashed})
    if hashed:
        decay = section.weight_decay if section.decay_embeddings else 0.0
        groups.append({"params": hashed, "weight_decay": decay})
    rate, betas = section.learning_rate, (section.beta1, section.beta2)
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: eager(torch.optim.AdamW)(groups, lr=rate, betas=betas, fused=True),
        "adam": lambda: eager(torch.optim.Adam)(groups, lr=rate, betas=betas, fused=True),
        "nadam": lambda: eager(torch.optim.NAdam)(
            groups, lr=rate, betas=betas, decoupled_weight_decay=True
        ),
        "rmsprop": lambda: eager(torch.optim.RMSprop)(groups, lr=rate, alpha=section.beta2),
        "sgd": lambda: eager(torch.optim.SGD)(groups, lr=rate, momentum=section.beta1, fused=True),
        "muon": lambda: GatewiseMuon(recurrent, groups, section, precision),
    }
    optimizer = makers[section.optimizer]()
    if hashed:
        RowUpdates(optimizer, None if section.optimizer == "sgd" else section.beta2)
    return optimizer


def _parameter_groups(
    model: nn.Module, section: TrainingSection, *, except_for: set[Tensor]
) -> ParameterGroups:
    """Return the groups of matrices, embeddings and biases, each with its weight decay."""
    is_decayed = {
        "matrix": True,
        "embedding": section.decay_embeddings,
        "bias": section.decay_biases,
    }
    parameters: dict[str, list[Tensor]] = {kind: [] for kind in is_decayed}
    for name, tensor in named_weights(model):
        if tensor.requires_grad and tensor not in except_for:
            parameters[_kind(name, tensor)].append(tensor)
    return [
        {"params": parameters[kind], "weight_decay": section.weight_decay if decayed else 0.0}
        for kind, decayed in is_decayed.items()
    ]


def _kind(name: str, tensor: Tensor) -> str:
    if tensor.ndim < 2:
        return "bias"
    return "embedding" if name.endswith("embedding.weight") else "matrix"
