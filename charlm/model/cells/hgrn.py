"""The hierarchically gated recurrent unit (Qin, Yang and Zhong 2023, arXiv:2311.04823)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.model.cells.base import Cell, LinearCell, input_weights


class HGRN(LinearCell):
    """The HGRU of Qin et al. 2023, section 3.2, with a real state and without its output gate.

    f = L + (1 − L) ⊙ σ(W_f x + b_f); h ← f ⊙ h + (1 − f) ⊙ swish(W_h x + b_h)

    L is the lower bound of the forget gate. It rises from layer to layer: with P the softmax of the
    vectors `bound` over the layers, the bound of layer k is P_2 + ... + P_k, and 0 in the first
    layer. Upper layers therefore keep their state for longer.

    Attributes:
        bound: The layer's entry of this softmax, (hidden,).
    """

    gate_names = ("forget", "input")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units, the only one until `join_layers` is called."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=2)
        self.bound = nn.Parameter(torch.zeros(hidden_size))
        # The bounds of all layers. A tuple does not register those of other layers here.
        self._bounds: tuple[nn.Parameter, ...] = (self.bound,)
        self._number = 0

    def join_layers(self, layers: Sequence[Cell], number: int) -> None:
        """Share the bounds of all layers; see `Cell.join_layers`."""
        self._bounds = tuple(layer.bound for layer in layers if isinstance(layer, HGRN))
        self._number = number

    def lower_bound(self) -> Tensor:
        """Return L, (hidden,)."""
        fractions = torch.softmax(torch.stack(self._bounds), dim=0)
        return fractions[1 : self._number + 1].sum(dim=0)

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return decay f and increment (1 − f) ⊙ swish(W_h x), each (..., hidden)."""
        forget, candidate = projected.chunk(2, dim=-1)
        bound = self.lower_bound()
        free = 1 - bound
        decay = torch.addcmul(bound, free, torch.sigmoid(forget))
        # 1 − f = (1 − L) σ(−a), which keeps its digits where f is near 1.
        return decay, free * torch.sigmoid(-forget) * functional.silu(candidate)
