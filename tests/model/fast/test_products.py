"""Products of weights: results and gradients by hand equal those of automatic differentiation."""

import pytest
import torch
from model.cells_table import relative_error

from charlm.model.fast.products import Diagonal, Matrix, Product

PRODUCTS = {
    "matrix": lambda: Matrix.zeros(4, 3),
    "matrix_with_bias": lambda: Matrix.zeros(4, 3, bias=True),
    "diagonal": lambda: Diagonal(3),
}
every_product = pytest.mark.parametrize("name", PRODUCTS)


def new_product(name: str) -> Product:
    product = PRODUCTS[name]().double()
    generator = torch.Generator().manual_seed(1)
    for weight in product.parameters():
        torch.nn.init.normal_(weight, generator=generator)
    return product


def vector_of(rows: int = 5) -> torch.Tensor:
    return torch.randn(
        rows, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True
    )


@every_product
def test_multiplying_by_prepared_operands_gives_the_product(name):
    product, vector = new_product(name), vector_of()
    assert (
        relative_error(
            product.multiply_by(vector, *product.operands(torch.float64)), product(vector)
        )
        < 1e-15
    )


@every_product
def test_gradients_by_hand_are_those_of_automatic_differentiation(name):
    product, vector = new_product(name), vector_of()
    result = product(vector)
    gradient = torch.randn(
        result.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    of_vector, of_weight, *_ = torch.autograd.grad(
        result, [vector, *product.parameters()], gradient
    )
    assert (
        relative_error(
            product.vector_gradient(gradient, *product.operands(torch.float64)), of_vector
        )
        < 1e-15
    )
    assert relative_error(product.weight_gradient(vector.detach(), gradient), of_weight) < 1e-15


@every_product
def test_a_product_in_bf16_returns_the_type_of_its_vector(name):
    product, vector = new_product(name).float(), vector_of().detach().float()
    arguments = product.operands(torch.bfloat16)
    result = product.multiply_by(vector, *arguments)
    back = product.vector_gradient(result, *arguments)
    assert result.dtype == back.dtype == torch.float32
    error = relative_error(result, product(vector))
    assert error == 0 if name == "diagonal" else 0 < error < 0.02
    if name == "matrix_with_bias":  # The bias is added in full precision.
        zero = product.multiply_by(torch.zeros(1, 3), *arguments)
        assert zero.equal(product.bias.detach()[None])


@every_product
def test_a_recorder_replaces_the_product(name):
    product, vector = new_product(name), vector_of()
    product.recorder = lambda *arguments: arguments
    assert product(vector) == (product, vector)
    product.recorder = None
    assert product(vector).equal(product.multiply(vector))


def test_operands_are_detached_from_the_parameters():
    for name in PRODUCTS:
        assert not any(
            argument.requires_grad for argument in new_product(name).operands(torch.float64)
        )
