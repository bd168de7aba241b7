"""Products with weights that are packed once, on a processor: for inference and for windows.

For a matrix product torch calls a library that rearranges the weights in every call. For 4 to 64
vectors, as in a batch of texts, that takes longer than the product itself. oneDNN can multiply by
weights that were rearranged before: 2.4 times as fast for 32 vectors and a matrix of 2,048 x 512
(AMD EPYC, one thread: 282 instead of 672 µs), and as fast for one vector.

Its sums have the same order for any number of vectors and threads. The result for a vector is
therefore the same to the last bit, whichever vectors are beside it: unlike torch's usual product,
which also differs from this one in the last bits. The same holds for a step of a model if its sizes
are multiples of 32; else torch computes the last units of a row by other functions than the others.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from charlm.model.fast.products import Matrix, Module, with_other_products

_TYPICAL_BATCH = 32  # Number of vectors that the layout of packed weights is chosen for.


class PackedMatrix(Matrix):
    """A matrix, (out, in), whose products are computed with a packed copy. It has no gradients.

    Attributes:
        packed: The weight in the layout of oneDNN.
        out_features: Number of rows.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        """Pack a weight; the module keeps it too."""
        super().__init__(weight, bias)
        self.out_features = len(weight)
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(
            weight.detach(), _TYPICAL_BATCH
        )

    def multiply(self, vector: Tensor) -> Tensor:
        """Return W v + b."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            vector, self.packed, self.bias, "none", [], ""
        )
        return product


def packed_product(weight: Tensor, batch: int) -> Callable[[Tensor], Tensor]:
    """Return the function v → W v, (batch, in) → (batch, out), for the steps of a window.

    Packing takes as long as one or two products. The function has no gradients.

    Args:
        weight: W, (out, in).
        batch: Number of vectors in each call.
    """
    if not _can_pack(weight):
        transposed = weight.t().contiguous()  # Makes its products faster.
        return lambda vectors: torch.mm(vectors, transposed)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, batch)

    def multiply(vectors: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(vectors, packed, None, "none", [], "")
        return product

    return multiply


def product_of(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right, without gradients.

    For fp32 on AMD, oneDNN is twice as fast as the library that torch calls (a product of 2,048 x
    2,048 by 2,048 x 512: 42 instead of 83 ms on one thread of an EPYC).
    """
    if not _can_pack(left):
        return left @ right
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
    return product


@torch.no_grad()
def with_packed_products(model: Module) -> Module:
    """Return a copy of a model that multiplies with packed weights, or the model itself.

    The copy shares the weights of `model`. A model that is not on a processor, that is not in fp32,
    or whose products are special already, such as those in int8, stays as it is.
    """
    if not _has_functions() or any(
        parameter.device.type != "cpu" or parameter.dtype != torch.float32
        for parameter in model.parameters()
    ):
        return model
    return with_other_products(model, _packed)


def _packed(layer: Matrix | nn.Linear) -> PackedMatrix:
    return PackedMatrix(cast(nn.Parameter, layer.weight), layer.bias)


def _can_pack(weight: Tensor) -> bool:
    """Return whether oneDNN multiplies a weight's type on its device at full speed."""
    if weight.device.type != "cpu" or not _has_functions():
        return False
    has_bf16 = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return weight.dtype == torch.float32 or has_bf16


def _has_functions() -> bool:
    """Return whether this build of torch has the functions, which no documentation promises."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    is_built = torch._C._has_mkldnn  # As `torch.backends.mkldnn.is_available` tells.
    return is_built and all(hasattr(torch.ops.mkldnn, name) for name in names)
