"""Products in int8, for inference: a fourth of the bytes of fp32, with integer multiplications.

W v + b ≈ s_v (s_W ⊙ (Q_W q_v)) + b, where s_W = max |w| / 127 of each row of W, s_v = max |v| / 127
of each vector, and Q_W, q_v are W / s_W, v / s_v, rounded. Every vector has its own scale, so that
a text does not depend on the texts beside it in a batch.

The integer product is `torch._int_mm`. torch's eager quantization, `torch.ao.quantization` and the
quantized tensors that `torch.ops.quantized.linear_dynamic` packs, is deprecated, and gives all
vectors of a batch one scale. `torch.ops.onednn.qlinear_pointwise` exists for compiled graphs: it
takes weights in a layout of one processor. `_int_mm` multiplies plain int8 tensors, which exact
integer arithmetic defines completely, so that another function can take its place.
"""

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn

from charlm.errors import CharlmError
from charlm.model.fast.products import Matrix, Module, with_other_products

_LARGEST = 127
_SMALLEST_MAXIMUM = 1e-30  # A vector of zeros is divided by a multiple of this instead of zero.
# The vector of a product is quantized in about 10 µs, in which fp32 multiplies with this many
# weights.
_MIN_WEIGHTS = 2**17


class Int8Matrix(Matrix):
    """A matrix, (out, in), whose products are computed in int8: W v + b. It has no gradients.

    Attributes:
        transposed: Q_W transposed, (in, out): int8, or fp32 where the processor multiplies int8
            inexactly.
        scales: s_W, (out,).
        out_features: Number of rows.
    """

    transposed: Tensor
    scales: Tensor

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None = None,
        *,
        in_integers: bool | None = None,
    ) -> None:
        """Quantize a weight; the module keeps it too, under its name in files.

        Args:
            weight: The weight, (out, in).
            bias: The bias, (out,), or None.
            in_integers: Whether to multiply in int8; None: if this processor does it exactly.
        """
        super().__init__(weight, bias)
        self.out_features = len(weight)
        values = weight.detach()
        scales = _scales(values)
        if in_integers is None:
            # torch 2.9 to 2.13 return wrong products of matrices with one column.
            in_integers = values.shape[1] > 1 and multiplies_exactly()
        integers = (values / scales).round().to(torch.int8 if in_integers else torch.float32)
        # A row of Q_W is contiguous: the transpose is a view.
        self.register_buffer("transposed", integers.t(), persistent=False)
        self.register_buffer("scales", scales[:, 0], persistent=False)

    def multiply(self, vector: Tensor) -> Tensor:
        """Return W v + b."""
        _refuse_gradients()
        rows = vector if vector.ndim == 2 else vector.flatten(0, -2)
        scale = _scales(rows)
        products = self._multiply_integers((rows / scale).round_()) * self.scales
        total = products * scale if self.bias is None else torch.addcmul(self.bias, products, scale)
        return total if vector.ndim == 2 else total.view(*vector.shape[:-1], -1)

    def operands(self, precision: torch.dtype) -> tuple[Tensor, ...]:
        """Refuse to prepare a window of training."""
        _refuse_gradients()
        return super().operands(precision)

    def _multiply_integers(self, rows: Tensor) -> Tensor:
        if self.transposed.dtype == torch.int8:
            return torch._int_mm(rows.to(torch.int8), self.transposed)
        return torch.mm(rows, self.transposed)


@torch.no_grad()
def with_int8_products(
    model: Module, *, min_weights: int = _MIN_WEIGHTS, in_integers: bool | None = None
) -> Module:
    """Return a copy of a model on the processor that computes its products in int8.

    It shares the weights of `model`. Embeddings, norms, biases and diagonal weights stay in fp32.

    Args:
        model: Model in evaluation mode.
        min_weights: Number of weights below which a product stays in fp32, where it is faster.
        in_integers: As for `Int8Matrix`; True for a model that is only traced.
    """

    def quantized(layer: Matrix | nn.Linear) -> Int8Matrix | None:
        if layer.weight.numel() < min_weights:
            return None
        weight = cast(nn.Parameter, layer.weight)
        return Int8Matrix(weight, layer.bias, in_integers=in_integers)

    return with_other_products(model, quantized)


def has_int8_products(model: nn.Module) -> bool:
    """Return whether a model computes its products in int8."""
    return any(isinstance(module, Int8Matrix) for module in model.modules())


@cache
def multiplies_exactly() -> bool:
    """Return whether this processor multiplies int8 exactly, as AVX-512 VNNI, AMX and Arm do.

    Older processors add pairs of products in 16 bits, which overflow. There the integers are
    multiplied in fp32, with the same results.
    """
    largest = torch.full((1, 64), _LARGEST, dtype=torch.int8)
    return int(torch._int_mm(largest, largest.t().expand(-1, 16).contiguous()).min()) == (
        64 * _LARGEST**2
    )


def _scales(rows: Tensor) -> Tensor:
    """Return the scale of each row, (rows, 1)."""
    return rows.abs().amax(dim=-1, keepdim=True).clamp_(min=_SMALLEST_MAXIMUM).mul_(1 / _LARGEST)


def _refuse_gradients() -> None:
    if torch.is_grad_enabled():
        raise CharlmError(
            "a model with int8 products has no gradients; load the model without int8"
        )
