"""Products of recurrent weights with a state: all that a step of a recurrence learns, apart from its input's weights.

Each is an ordinary layer. While a `tape` lies in it, the tape computes the product and notes what was multiplied, so
that backpropagation through time can form a weight's gradient as one product over the whole window.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Tape(Protocol):
    """What takes the place of a product while a step is traced."""

    def __call__(self, product: "Product", vector: Tensor) -> Tensor:
        """Return the product with `vector`, (batch, size), and take note of it."""


class Product(nn.Module, ABC):
    """A weight times a vector, and a bias if it has one; with what backpropagation wants to know of it."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    tape: Tape | None = None
    thinned: Tensor | None = None  # Stands in for the weight while some of it is dropped.

    def forward(self, vector: Tensor) -> Tensor:
        """Return the product, (..., in) → (..., out); noted on the tape if one lies in."""
        return self.plain(vector) if self.tape is None else self.tape(self, vector)

    @property
    def weight_read(self) -> Tensor:
        """The weight as the product reads it."""
        return self.weight if self.thinned is None else self.thinned

    @abstractmethod
    def plain(self, vector: Tensor) -> Tensor:
        """Return the product as automatic differentiation wants it."""

    @abstractmethod
    def arguments(self, precision: torch.dtype) -> tuple[Tensor, ...]:
        """Return the weights as `multiply` and `pull_back` want them, made once for a whole window."""

    @staticmethod
    @abstractmethod
    def multiply(vector: Tensor, *arguments: Tensor) -> Tensor:
        """Return the product, (batch, in) → (batch, out)."""

    @staticmethod
    @abstractmethod
    def pull_back(gradient: Tensor, *arguments: Tensor) -> Tensor:
        """Return the gradient of what was multiplied from that of the product, (batch, out) → (batch, in)."""

    @abstractmethod
    def weight_gradient(self, vectors: Tensor, gradients: Tensor) -> Tensor:
        """Return the gradient of the weight over a window, in one product.

        Args:
            vectors: What was multiplied, (time x batch, in).
            gradients: Of the products, (time x batch, out).
        """


class Matrix(Product):
    """A matrix, (out, in): W v + b."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None = None) -> None:
        """Take parameters, which may belong to another layer as well."""
        super().__init__()
        self.weight = weight
        self.bias = bias

    @classmethod
    def new(cls, rows: int, columns: int, *, bias: bool = False) -> "Matrix":
        """Return a matrix of zeros, to be initialized."""
        return cls(
            nn.Parameter(torch.zeros(rows, columns)),
            nn.Parameter(torch.zeros(rows)) if bias else None,
        )

    def plain(self, vector: Tensor) -> Tensor:
        """Return W v + b."""
        return functional.linear(vector, self.weight_read, self.bias)

    def arguments(self, precision: torch.dtype) -> tuple[Tensor, ...]:
        """Return W, Wᵀ, each with its rows one after another in memory, which the products are faster with, and b."""
        weight = self.weight_read.detach().to(precision)
        return (
            weight,
            weight.t().contiguous(),
            *([] if self.bias is None else [self.bias.detach()]),
        )

    @staticmethod
    def multiply(vector: Tensor, *arguments: Tensor) -> Tensor:
        """Return W v + b."""
        _, transposed, *bias = arguments
        product = torch.mm(vector.to(transposed.dtype), transposed).to(vector.dtype)
        return product + bias[0] if bias else product

    @staticmethod
    def pull_back(gradient: Tensor, *arguments: Tensor) -> Tensor:
        """Return Wᵀ δ."""
        weight = arguments[0]
        return torch.mm(gradient.to(weight.dtype), weight).to(gradient.dtype)

    def weight_gradient(self, vectors: Tensor, gradients: Tensor) -> Tensor:
        """Return Σ_t δ_t v_tᵀ."""
        return gradients.t() @ vectors


class Diagonal(Product):
    """A diagonal matrix, (size,): w ⊙ v."""

    def __init__(self, size: int) -> None:
        """Make one of zeros, to be initialized."""
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(size)), None

    def plain(self, vector: Tensor) -> Tensor:
        """Return w ⊙ v."""
        return self.weight_read * vector

    def arguments(self, precision: torch.dtype) -> tuple[Tensor, ...]:
        """Return w, in its own precision: a product by element gains nothing from a lower one."""
        return (self.weight_read.detach(),)

    @staticmethod
    def multiply(vector: Tensor, *arguments: Tensor) -> Tensor:
        """Return w ⊙ v."""
        return arguments[0] * vector

    @staticmethod
    def pull_back(gradient: Tensor, *arguments: Tensor) -> Tensor:
        """Return w ⊙ δ."""
        return arguments[0] * gradient

    def weight_gradient(self, vectors: Tensor, gradients: Tensor) -> Tensor:
        """Return Σ_t δ_t ⊙ v_t."""
        return (gradients * vectors).sum(dim=0)


@contextmanager
def thinned(products: Iterable[Product], share: float) -> Iterator[None]:
    """Drop a share of the weights of `products`: what is left stands in for them, scaled to the same mean.

    Wan et al. 2013; Merity et al. 2018 (arXiv:1708.02182), section 2: one mask for a window.
    """
    products = list(products) if share else []
    for product in products:
        product.thinned = functional.dropout(product.weight, share)
    try:
        yield
    finally:
        for product in products:
            product.thinned = None
