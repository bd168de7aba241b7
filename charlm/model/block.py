"""The residual block of Griffin around a recurrence (De et al. 2024, arXiv:2402.19427)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPSILON = 1e-6


class RMSNorm(nn.Module):
    """Division by the root mean square of the units (Zhang and Sennrich 2019, arXiv:1910.07467).

    Attributes:
        weight: Factor of each unit, (units,).
    """

    def __init__(self, size: int) -> None:
        """Create a layer of `size` units."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (..., units) → (..., units)."""
        mean = (x * x).mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(mean + _EPSILON) * self.weight


class GriffinBlock(nn.Module):
    """What surrounds a recurrence in a residual stream: De et al. 2024, section 2.1 and figure 2.

    x ← x + W_o (gelu(W_g n) ⊙ R(n)), n = norm(x);    x ← x + V_o (gelu(V_g m) ⊙ V_x m), m = norm(x)

    R is a recurrence with its own input weights. The paper has a convolution of width 4 before R;
    here there is none. gelu is the approximation by tanh (Hendrycks and Gimpel 2016).

    Attributes:
        mixing_norm: Normalization before the recurrence.
        gate: W_g, (hidden, stream).
        output: W_o, (stream, hidden).
        mlp_norm: Normalization before the MLP.
        mlp_input: V_g and V_x, (2 x expansion x stream, stream).
        mlp_output: V_o, (stream, expansion x stream).
    """

    def __init__(self, stream_size: int, hidden_size: int, expansion: int) -> None:
        """Create a block with initial weights.

        The two output matrices start at zero, so that a new block changes nothing (Zhang et al.
        2019, arXiv:1901.09321); the others are Glorot uniform.

        Args:
            stream_size: Width of the residual stream.
            hidden_size: Number of units of the recurrence.
            expansion: Number of units of the MLP per unit of the stream.
        """
        super().__init__()
        self.mixing_norm = RMSNorm(stream_size)
        self.gate = nn.Linear(stream_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, stream_size, bias=False)
        self.mlp_norm = RMSNorm(stream_size)
        self.mlp_input = nn.Linear(stream_size, 2 * expansion * stream_size, bias=False)
        self.mlp_output = nn.Linear(expansion * stream_size, stream_size, bias=False)
        nn.init.xavier_uniform_(self.gate.weight)
        for part in self.mlp_input.weight.detach().chunk(2):
            nn.init.xavier_uniform_(part)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.mlp_output.weight)

    def mix(self, normalized: Tensor, y: Tensor) -> Tensor:
        """Return what the recurrence adds to the stream, (..., stream).

        Args:
            normalized: Input of the recurrence, (..., stream).
            y: Output of the recurrence, (..., hidden).
        """
        added: Tensor = self.output(_gelu(self.gate(normalized)) * y)
        return added

    def feed_forward(self, x: Tensor) -> Tensor:
        """Return what the MLP adds to the stream, (..., stream) → (..., stream)."""
        gate, value = self.mlp_input(self.mlp_norm(x)).chunk(2, dim=-1)
        added: Tensor = self.mlp_output(_gelu(gate) * value)
        return added

    def matrix_rows(self) -> Iterator[tuple[Tensor, int]]:
        """Yield each matrix with its rows per linear map: the input of the MLP holds two maps."""
        yield self.gate.weight, len(self.gate.weight)
        yield self.output.weight, len(self.output.weight)
        yield self.mlp_input.weight, len(self.mlp_input.weight) // 2
        yield self.mlp_output.weight, len(self.mlp_output.weight)


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")
