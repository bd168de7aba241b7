"""Backpropagation through time for any cell, derived from its step alone.

With automatic differentiation alone, a loop over `Cell.step` computes the gradient of every weight
at each token and adds the results. Here the step is traced once, together with its derivative, into
two flat programs. A window runs the forward program from the first token to the last and the
backward program from the last to the first. The gradient of a weight is then one product over the
whole window, of the vectors that the weight was multiplied with and the gradients of the results
(Werbos 1990).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from charlm.model.cells.base import Cell, State
from charlm.model.fast.products import Product, Recorder

Tensors = tuple[Tensor, ...]
Indices = tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A cell's step and its derivative, traced for one batch size, in training or evaluation.

    A tensor that belongs to several products is stored once; `vectors` and `gradients` say which
    one belongs to which product.

    Attributes:
        products: Products of the step in the order of their use; a product may occur several times.
        num_state_tensors: Number of tensors in a state.
        forward: Function (projected, *state, *operands of the products) →
            (output, *state, *multiplied vectors, *intermediate results that `backward` needs).
        backward: Function (*intermediate results, gradient of the output, *of the state) →
            gradients of (*state, projected, *results of the products).
        vectors: For each product, the index of its vector among the multiplied vectors.
        gradients: For each product, the index of its result's gradient among the gradients after
            those of the state; `projected` has index 0.
    """

    products: tuple[Product, ...]
    num_state_tensors: int
    forward: Callable[..., Tensors]
    backward: Callable[..., Tensors]
    vectors: Indices
    gradients: Indices


def run_window(
    cell: Cell, projected: Tensor, state: State, precision: torch.dtype
) -> tuple[Tensor, State]:
    """Run a cell over a window, step by step.

    Args:
        cell: One layer.
        projected: Result of `Cell.project` for the inputs, (time, batch, ...).
        state: State before the window, each tensor (batch, hidden).
        precision: Type in which matrix products are computed. All other operations are computed in
            the type of `projected`.

    Returns:
        Outputs, (time, batch, hidden), and the state after the window.
    """
    program = _program_of(cell, projected[0], state, precision)
    outputs, *after = _Window.apply(program, precision, projected, *state, *_parameters(program))  # type: ignore[no-untyped-call]
    return outputs, tuple(after)


class _TimeBuffer:
    """Tensors of one shape, one per token, copied while they are in the processor's cache."""

    def __init__(self, time: int) -> None:
        self._time = time
        self._rows: Tensor | None = None

    def put(self, index: int, tensor: Tensor) -> None:
        if self._rows is None:
            self._rows = tensor.new_empty(self._time, *tensor.shape)
        self._rows[index].copy_(tensor)

    @property
    def whole(self) -> Tensor:
        """The tensors of all tokens, (time, batch, ...)."""
        return cast(Tensor, self._rows)

    @property
    def flat(self) -> Tensor:
        """The tensors of all tokens, (time x batch, ...)."""
        return self.whole.flatten(0, 1)


class _Window(torch.autograd.Function):
    """The loop over the tokens of a window, and the loop back."""

    @staticmethod
    def forward(
        ctx: Any, program: Program, precision: torch.dtype, projected: Tensor, *rest: Tensor
    ) -> Tensors:
        state = rest[: program.num_state_tensors]
        operands = _operands(program.products, precision)
        outputs = _TimeBuffer(len(projected))
        ctx.vectors = [_TimeBuffer(len(projected)) for _ in range(_count(program.vectors))]
        ctx.intermediates = []
        first_vector = 1 + program.num_state_tensors
        first_intermediate = first_vector + len(ctx.vectors)
        for time, x in enumerate(projected.unbind()):
            results = program.forward(x, *state, *operands)
            state = results[1:first_vector]
            outputs.put(time, results[0])
            vectors = results[first_vector:first_intermediate]
            for buffer, vector in zip(ctx.vectors, vectors, strict=True):
                buffer.put(time, vector)
            ctx.intermediates.append(results[first_intermediate:])
        ctx.program = program
        ctx.precision = precision
        ctx.save_for_backward(*rest)
        # The returned tensors refer to ctx: if ctx held them too, neither would ever be freed.
        return outputs.whole, *(tensor.clone() for tensor in state)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        program: Program = ctx.program
        _ = ctx.saved_tensors  # Raises if state or weights were changed in place since.
        output_gradients, *state = gradients
        time = len(output_gradients)
        buffers = [_TimeBuffer(time) for _ in range(_count(program.gradients, at_least=1))]
        for token in reversed(range(time)):
            results = program.backward(*ctx.intermediates[token], output_gradients[token], *state)
            state = list(results[: program.num_state_tensors])
            for buffer, gradient in zip(buffers, results[program.num_state_tensors :], strict=True):
                buffer.put(token, gradient)
        pairs = [
            (ctx.vectors[vector].flat, buffers[gradient].flat)
            for vector, gradient in zip(program.vectors, program.gradients, strict=True)
        ]
        return (
            None,
            None,
            buffers[0].whole,
            *state,
            *_weight_gradients(program.products, pairs, ctx.precision),
        )


def _count(indices: Indices, *, at_least: int = 0) -> int:
    """Return the number of tensors that the indices refer to."""
    return max(at_least, max(indices, default=-1) + 1)


def _weight_gradients(
    products: Sequence[Product], pairs: Sequence[tuple[Tensor, Tensor]], precision: torch.dtype
) -> Iterator[Tensor]:
    """Yield the gradient of each parameter, in the order of `_parameters`.

    Args:
        products: Products in the order of their use.
        pairs: For each use, the vector and the gradient of the result, (time x batch, ...).
        precision: Type in which matrix products are computed.
    """
    for product in dict.fromkeys(products):
        uses = [pair for pair, used in zip(pairs, products, strict=True) if used is product]
        vectors, gradients = (
            uses[0] if len(uses) == 1 else (torch.cat(column) for column in zip(*uses, strict=True))
        )
        yield product.weight_gradient(vectors.to(precision), gradients.to(precision)).to(
            gradients.dtype
        )
        if product.bias is not None:
            yield gradients.sum(dim=0)


def _parameters(program: Program) -> list[Tensor]:
    return [
        parameter
        for product in dict.fromkeys(program.products)
        for parameter in (product.effective_weight, product.bias)
        if parameter is not None
    ]


def _operands(products: Sequence[Product], precision: torch.dtype) -> list[Tensor]:
    return [
        operand for product in dict.fromkeys(products) for operand in product.operands(precision)
    ]


_programs: WeakKeyDictionary[Cell, dict[object, Program]] = WeakKeyDictionary()


def _program_of(cell: Cell, projected: Tensor, state: State, precision: torch.dtype) -> Program:
    """Return the cell's program for these sizes and its mode, traced at its first use."""
    # A program holds the buffers that it uses, so no other buffer has their identity.
    buffers = tuple(map(id, cell.buffers()))
    key = (projected.shape, projected.dtype, projected.device, precision, cell.training, buffers)
    programs = _programs.setdefault(cell, {})
    if key not in programs:
        # A resumed training traces again, and must then draw the random numbers of its own steps.
        devices = [projected.device] if projected.is_cuda else []
        with torch.enable_grad(), torch.random.fork_rng(devices):
            programs[key] = _trace(
                cell, projected.detach(), [tensor.detach() for tensor in state], precision
            )
    return programs[key]


def _trace(
    cell: Cell, projected: Tensor, state: Sequence[Tensor], precision: torch.dtype
) -> Program:
    """Trace a step with its derivative, and split the trace into two programs."""
    products = _products_used(cell, projected, state)
    arguments = (
        projected,
        *state,
        *_operands(products, precision),
        cell.output(tuple(state)),  # Stands for the gradient of the output.
        *state,  # Stands for the gradients of the state.
    )
    # The tracer would take one tensor given twice as one input, so each argument is a copy.
    joint = make_fx(_joint_step(cell, products, len(state)))(
        *(argument.clone() for argument in arguments)
    )
    halves = _split(joint, len(arguments) - 1 - len(state), len(state))
    return Program(
        products=tuple(products),
        num_state_tensors=len(state),
        forward=halves.forward.forward,
        backward=halves.backward.forward,
        vectors=halves.vectors,
        gradients=halves.gradients[1:],
    )


def _products_used(cell: Cell, projected: Tensor, state: Sequence[Tensor]) -> list[Product]:
    """Return the products of a step in the order of their use."""
    products: list[Product] = []

    def record(product: Product, vector: Tensor) -> Tensor:
        products.append(product)
        return product.multiply(vector)

    with _recording(cell, record), torch.no_grad():
        cell.step(projected, tuple(state))
    return products


def _joint_step(
    cell: Cell, products: Sequence[Product], num_state_tensors: int
) -> Callable[..., Tensors]:
    """Return a function that computes a step's results and gradients together.

    Its arguments are (projected, *state, *operands, gradient of the output, *of the state), and its
    results are (output, *state, *multiplied vectors, *gradients of the state, gradient of
    projected, *gradients of the products' results).
    """

    def joint_step(*tensors: Tensor) -> Tensors:
        first_operand = 1 + num_state_tensors
        leaves = [tensor.detach().requires_grad_() for tensor in tensors[:first_operand]]
        rest = iter(tensors[first_operand:])
        operands = {
            product: [next(rest) for _ in product.operands(torch.float32)]
            for product in dict.fromkeys(products)
        }
        vectors: list[Tensor] = []
        probes: list[Tensor] = []

        def record(product: Product, vector: Tensor) -> Tensor:
            probe = product.multiply_by(vector.detach(), *operands[product]).requires_grad_()
            vectors.append(vector.detach())
            probes.append(probe)
            result: Tensor = _ProbedProduct.apply(product, vector, probe, *operands[product])  # type: ignore[no-untyped-call]
            return result

        with _recording(cell, record):
            state = cell.step(leaves[0], tuple(leaves[1:]))
        results = (cell.output(state), *state)
        projected, *state_before = leaves
        gradients = torch.autograd.grad(
            results,
            [*state_before, projected, *probes],
            list(rest),
            allow_unused=True,
            materialize_grads=True,
        )
        return (*(result.detach() for result in results), *vectors, *gradients)

    return joint_step


class _ProbedProduct(torch.autograd.Function):
    """A product whose result's gradient also reaches `probe`, where it can be read."""

    @staticmethod
    def forward(
        ctx: Any, product: Product, vector: Tensor, probe: Tensor, *operands: Tensor
    ) -> Tensor:
        ctx.product = product
        ctx.save_for_backward(*operands)
        return product.multiply_by(vector, *operands)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        operands = ctx.saved_tensors
        return (
            None,
            ctx.product.vector_gradient(gradient, *operands),
            gradient,
            *(None for _ in operands),
        )


@contextmanager
def _recording(cell: Cell, recorder: Recorder) -> Iterator[None]:
    """Set the recorder of all products of a cell inside the context."""
    for product in cell.products():
        product.recorder = recorder
    try:
        yield
    finally:
        for product in cell.products():
            product.recorder = None


class _Halves(NamedTuple):
    """A traced step, split into forward and backward; `vectors` and `gradients` as in `Program`."""

    forward: fx.GraphModule
    vectors: Indices
    backward: fx.GraphModule
    gradients: Indices


def _split(joint: fx.GraphModule, num_inputs: int, num_state_tensors: int) -> _Halves:
    """Split a traced step into the part that needs no gradient and the part that does.

    Args:
        joint: Trace of the function that `_joint_step` returns.
        num_inputs: Number of its inputs that are not gradients; they come first.
        num_state_tensors: Number of tensors in a state.
    """
    _remove_detach(joint.graph)
    *nodes, end = joint.graph.nodes
    placeholders = [node for node in nodes if node.op == "placeholder"]
    num_products = (len(end.args[0]) - 2 * num_state_tensors - 2) // 2
    first_vector = 1 + num_state_tensors
    results = end.args[0][: first_vector + num_products]
    gradients = end.args[0][first_vector + num_products :]
    depends_on_gradient = _descendants(nodes, placeholders[num_inputs:])
    backward_nodes = [node for node in nodes if node in depends_on_gradient]
    forward_nodes = [node for node in nodes if node not in depends_on_gradient]
    used = [source for node in backward_nodes for source in node.all_input_nodes]
    intermediates = list(
        dict.fromkeys(node for node in (*used, *gradients) if node not in depends_on_gradient)
    )
    vectors, vector_indices = _distinct(results[first_vector:])
    outputs, gradient_indices = _distinct(gradients[num_state_tensors:])
    return _Halves(
        forward=_subgraph(
            joint,
            forward_nodes,
            [*results[:first_vector], *vectors, *intermediates],
            placeholders[:num_inputs],
        ),
        vectors=vector_indices,
        backward=_subgraph(
            joint,
            backward_nodes,
            [*gradients[:num_state_tensors], *outputs],
            [*intermediates, *placeholders[num_inputs:]],
        ),
        gradients=gradient_indices,
    )


def _remove_detach(graph: fx.Graph) -> None:
    """Remove calls of `detach`, which have no effect here: the programs record no gradients."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(node.all_input_nodes[0])
    graph.eliminate_dead_code()


def _descendants(nodes: Sequence[fx.Node], roots: Sequence[fx.Node]) -> set[fx.Node]:
    """Return `roots` and all nodes that depend on them; `nodes` are in topological order."""
    descendants = set(roots)
    for node in nodes:
        if any(source in descendants for source in node.all_input_nodes):
            descendants.add(node)
    return descendants


def _distinct(nodes: Sequence[fx.Node]) -> tuple[list[fx.Node], Indices]:
    """Return the distinct nodes, and for each given node its index among them."""
    distinct = list(dict.fromkeys(nodes))
    return distinct, tuple(distinct.index(node) for node in nodes)


def _subgraph(
    joint: fx.GraphModule,
    nodes: Sequence[fx.Node],
    results: Sequence[fx.Node],
    inputs: Sequence[fx.Node],
) -> fx.GraphModule:
    """Return a program of some of a trace's nodes, with the buffers and constants that they use."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in results))
    graph.eliminate_dead_code()
    return fx.GraphModule(joint, graph)
