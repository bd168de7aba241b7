"""Products of weights with vectors: everything that a step of a recurrence learns.

Each product is an ordinary layer. While a `recorder` is set, it computes the product in place of
the layer and records the vector, so that backpropagation through time can form the gradient of a
weight as one product over the whole window.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.model.dropout import drop
from charlm.model.projection import MixtureOfSoftmaxes

Module = TypeVar("Module", bound=nn.Module)


class Recorder(Protocol):
    """A function that replaces a product while a step is traced."""

    def __call__(self, product: "Product", vector: Tensor) -> Tensor:
        """Record the vector, (batch, in), and return its product, (batch, out)."""


class Product(nn.Module, ABC):
    """A weight times a vector, plus an optional bias, and the parts of its derivative.

    Attributes:
        weight: Trained weight.
        bias: Trained bias, or None.
        recorder: Function that replaces the product, or None.
        weight_after_dropout: The weight after weight dropout, else None.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    recorder: Recorder | None = None
    weight_after_dropout: Tensor | None = None

    def forward(self, vector: Tensor) -> Tensor:
        """Return the product, (..., in) → (..., out); the recorder computes it if there is one."""
        return self.multiply(vector) if self.recorder is None else self.recorder(self, vector)

    @property
    def effective_weight(self) -> Tensor:
        """The weight that the product multiplies with: after weight dropout, if there is any."""
        return self.weight if self.weight_after_dropout is None else self.weight_after_dropout

    @abstractmethod
    def multiply(self, vector: Tensor) -> Tensor:
        """Return the product by differentiable operations, (..., in) → (..., out)."""

    @abstractmethod
    def operands(self, precision: torch.dtype) -> tuple[Tensor, ...]:
        """Return the operands of `multiply_by` and `vector_gradient`, prepared once per window."""

    @staticmethod
    @abstractmethod
    def multiply_by(vector: Tensor, *operands: Tensor) -> Tensor:
        """Return the product, (batch, in) → (batch, out)."""

    @staticmethod
    @abstractmethod
    def vector_gradient(gradient: Tensor, *operands: Tensor) -> Tensor:
        """Return the vector's gradient from the product's, (batch, out) → (batch, in)."""

    @abstractmethod
    def weight_gradient(self, vectors: Tensor, gradients: Tensor) -> Tensor:
        """Return the gradient of the weight over a window, in one product.

        Args:
            vectors: Vectors that were multiplied, (time x batch, in).
            gradients: Gradients of the products, (time x batch, out).
        """


class Matrix(Product):
    """A matrix, (out, in): W v + b."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        """Take parameters, which may belong to another layer as well."""
        super().__init__()
        self.weight = weight
        self.bias = bias

    @classmethod
    def zeros(cls, rows: int, columns: int, *, bias: bool = False) -> "Matrix":
        """Create a matrix of zeros, to be initialized."""
        return cls(
            nn.Parameter(torch.zeros(rows, columns)),
            nn.Parameter(torch.zeros(rows)) if bias else None,
        )

    def multiply(self, vector: Tensor) -> Tensor:
        """Return W v + b."""
        return functional.linear(vector, self.effective_weight, self.bias)

    def operands(self, precision: torch.dtype) -> tuple[Tensor, ...]:
        """Return W, Wᵀ and b. Both matrices are contiguous, which makes their products faster."""
        weight = self.effective_weight.detach().to(precision)
        return (
            weight,
            weight.t().contiguous(),
            *([] if self.bias is None else [self.bias.detach()]),
        )

    @staticmethod
    def multiply_by(vector: Tensor, *operands: Tensor) -> Tensor:
        """Return W v + b."""
        _, transposed, *bias = operands
        product = torch.mm(vector.to(transposed.dtype), transposed).to(vector.dtype)
        return product + bias[0] if bias else product

    @staticmethod
    def vector_gradient(gradient: Tensor, *operands: Tensor) -> Tensor:
        """Return Wᵀ δ."""
        weight = operands[0]
        return torch.mm(gradient.to(weight.dtype), weight).to(gradient.dtype)

    def weight_gradient(self, vectors: Tensor, gradients: Tensor) -> Tensor:
        """Return Σ_t δ_t v_tᵀ."""
        return gradients.t() @ vectors


class Diagonal(Product):
    """A diagonal matrix, (size,): w ⊙ v."""

    def __init__(self, size: int) -> None:
        """Create a diagonal of zeros, to be initialized."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.bias = None

    def multiply(self, vector: Tensor) -> Tensor:
        """Return w ⊙ v."""
        return self.effective_weight * vector

    def operands(self, precision: torch.dtype) -> tuple[Tensor, ...]:
        """Return w in its own precision: an elementwise product gains nothing from a lower one."""
        return (self.effective_weight.detach(),)

    @staticmethod
    def multiply_by(vector: Tensor, *operands: Tensor) -> Tensor:
        """Return w ⊙ v."""
        return operands[0] * vector

    @staticmethod
    def vector_gradient(gradient: Tensor, *operands: Tensor) -> Tensor:
        """Return w ⊙ δ."""
        return operands[0] * gradient

    def weight_gradient(self, vectors: Tensor, gradients: Tensor) -> Tensor:
        """Return Σ_t δ_t ⊙ v_t."""
        return (gradients * vectors).sum(dim=0)


class Diagonals(Product):
    """One diagonal matrix per gate, (gates x size,): w ⊙ [v, v, ...]."""

    def __init__(self, size: int, gates: int) -> None:
        """Create diagonals of zeros, to be initialized."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(gates * size))
        self.bias = None
        self.gates = gates

    def multiply(self, vector: Tensor) -> Tensor:
        """Return w ⊙ [v, v, ...]."""
        return self.effective_weight * torch.cat([vector] * self.gates, dim=-1)

    def operands(self, precision: torch.dtype) -> tuple[Tensor, ...]:
        """Return w, (gates, size), in its own precision, as `Diagonal` does."""
        return (self.effective_weight.detach().view(self.gates, -1),)

    @staticmethod
    def multiply_by(vector: Tensor, *operands: Tensor) -> Tensor:
        """Return w ⊙ [v, v, ...]."""
        return (operands[0] * vector.unsqueeze(1)).flatten(1)

    @staticmethod
    def vector_gradient(gradient: Tensor, *operands: Tensor) -> Tensor:
        """Return the sum over the gates of w ⊙ δ."""
        return (operands[0] * gradient.view(len(gradient), *operands[0].shape)).sum(dim=1)

    def weight_gradient(self, vectors: Tensor, gradients: Tensor) -> Tensor:
        """Return Σ_t δ_t ⊙ [v_t, v_t, ...]."""
        by_gate = gradients.view(len(gradients), self.gates, -1)
        return (by_gate * vectors.unsqueeze(1)).sum(dim=0).flatten()


@contextmanager
def weight_dropout(products: Iterable[Product], p: float) -> Iterator[None]:
    """Drop weights of `products` inside the context, and scale the others to keep the mean.

    Wan et al. 2013; Merity et al. 2018 (arXiv:1708.02182), section 2: one mask for a window.

    Args:
        products: Products whose weights are dropped; their biases stay.
        p: Fraction of the weights that is dropped.
    """
    products = list(products) if p else []
    for product in products:
        product.weight_after_dropout = drop(product.weight, p)
    try:
        yield
    finally:
        for product in products:
            product.weight_after_dropout = None


def with_other_products(
    model: Module, make: Callable[[Matrix | nn.Linear], Matrix | None]
) -> Module:
    """Return a copy of a model in which other modules compute its products.

    The copy shares the weights of `model`.

    Args:
        model: The model.
        make: Function from a matrix or a linear layer to the module in its place; None to keep it.
    """
    copied = deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    for module in list(copied.modules()):
        for name, child in module.named_children():
            # A class that extends one of these two computes more than its product.
            is_product = type(child) in (Matrix, nn.Linear)
            if is_product and (other := make(cast(Matrix | nn.Linear, child))) is not None:
                setattr(module, name, other)
        if isinstance(module, MixtureOfSoftmaxes) and module.product is None:
            module.product = make(module)
    return copied
