"""Make the optimizer of a configuration, with its parameter groups."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from charlm.config.schema import Training as TrainingSection
from charlm.model.language_model import named_weights
from charlm.training.muon import GatewiseMuon, Groups, gate_rows


def make_optimizer(
    model: nn.Module, section: TrainingSection, *, precision: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """Return the optimizer that `section` names, with weight decay on matrices and, if asked for, on the rest.

    Muon multiplies in `precision`. NAdam is Dozat's (2016), its weight decay apart from the gradient as AdamW's
    (Loshchilov and Hutter 2019).
    """
    matrices = gate_rows(model) if section.optimizer == "muon" else {}
    groups: Groups = []
    for kind, decayed in (
        ("matrix", True),
        ("embedding", section.decay_embeddings),
        ("bias", section.decay_biases),
    ):
        parameters = [
            tensor
            for name, tensor in named_weights(model)
            if _kind(name, tensor) == kind and tensor.requires_grad and tensor not in matrices
        ]
        groups.append(
            {"params": parameters, "weight_decay": section.weight_decay if decayed else 0.0}
        )
    rate, betas = section.learning_rate, (section.beta1, section.beta2)
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True),
        "adam": lambda: torch.optim.Adam(groups, lr=rate, betas=betas, fused=True),
        "nadam": lambda: torch.optim.NAdam(
            groups, lr=rate, betas=betas, decoupled_weight_decay=True
        ),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=rate, alpha=section.beta2),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=section.beta1, fused=True),
        "muon": lambda: GatewiseMuon(matrices, groups, section, precision),
    }
    return makers[section.optimizer]()


def _kind(name: str, tensor: Tensor) -> str:
    if tensor.ndim < 2:
        return "bias"
    return "embedding" if name.startswith("embedding.") else "matrix"
