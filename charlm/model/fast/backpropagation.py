"""Backpropagation through time for any cell, from its step alone.

Left to automatic differentiation, a loop over `Cell.advance` forms every weight's gradient anew at each token and adds
them up. Here the step is traced once, together with its derivative, into two flat programs. A window runs the first
from left to right and the second from right to left; the gradient of a weight is then one product over the whole
window, of what the weight was multiplied with and the gradients of what came out (Werbos 1990).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from charlm.model.cells.base import Cell, State
from charlm.model.fast.products import Product, Tape

Tensors = tuple[Tensor, ...]
Places = tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A cell's step for one size of batch, and its derivative.

    Attributes:
        products: The products of the step, in the order of their use; one may come several times.
        parts: Tensors in a state.
        forward: (projected, *state, *arguments of the products) →
            (output, *state, *what products were multiplied with, *what `backward` needs).
        backward: (*what it needs, gradient of the output, *of the state) →
            gradients of (*state, projected, *what came out of products). Of these, as of what products were multiplied
            with, what is the same tensor for several comes once.
        vectors: For each product, which of the tensors it was multiplied with.
        gradients: For each product, which of the gradients is that of what came out of it; the first is `projected`'s.
    """

    products: tuple[Product, ...]
    parts: int
    forward: Callable[..., Tensors]
    backward: Callable[..., Tensors]
    vectors: tuple[int, ...]
    gradients: tuple[int, ...]


def run_window(
    cell: Cell, projected: Tensor, state: State, precision: torch.dtype
) -> tuple[Tensor, State]:
    """Run a cell over a window, step by step.

    Args:
        cell: One layer.
        projected: What `Cell.project` made of the inputs, (time, batch, ...).
        state: State before the window, each part (batch, hidden).
        precision: What matrix products are computed in; all else is computed in the type of `projected`.

    Returns:
        Outputs, (time, batch, hidden), and the state after the window.
    """
    program = _program_of(cell, projected[0], state, precision)
    outputs, *after = _Window.apply(program, precision, projected, *state, *_parameters(program))  # type: ignore[no-untyped-call]
    return outputs, tuple(after)


class _Rows:
    """Tensors of one shape, one a token, each copied into its place while it is still in the processor's cache."""

    def __init__(self, time: int) -> None:
        self._time = time
        self.all: Tensor | None = None

    def put(self, index: int, tensor: Tensor) -> None:
        if self.all is None:
            self.all = tensor.new_empty(self._time, *tensor.shape)
        self.all[index].copy_(tensor)

    @property
    def flat(self) -> Tensor:
        """All of them, (time x batch, ...)."""
        return self.whole.flatten(0, 1)

    @property
    def whole(self) -> Tensor:
        """All of them, (time, batch, ...)."""
        return cast(Tensor, self.all)


class _Window(torch.autograd.Function):
    """The loop over a window, and the loop back."""

    @staticmethod
    def forward(
        ctx: Any, program: Program, precision: torch.dtype, projected: Tensor, *rest: Tensor
    ) -> Tensors:
        state = rest[: program.parts]
        arguments = _arguments(program.products, precision)
        given = max(program.vectors, default=-1) + 1
        outputs, ctx.given, ctx.kept = (
            _Rows(len(projected)),
            [_Rows(len(projected)) for _ in range(given)],
            [],
        )
        first, kept = 1 + program.parts, 1 + program.parts + given
        for time, x in enumerate(projected.unbind()):
            results = program.forward(x, *state, *arguments)
            state = results[1:first]
            outputs.put(time, results[0])
            for rows, vector in zip(ctx.given, results[first:kept], strict=True):
                rows.put(time, vector)
            ctx.kept.append(results[kept:])
        ctx.program, ctx.precision = program, precision
        ctx.save_for_backward(*rest)
        # What is returned comes to refer to ctx: were it kept here too, neither would ever be freed.
        return outputs.whole, *(part.clone() for part in state)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        program: Program = ctx.program
        _ = ctx.saved_tensors  # Raises if what the loop back reads again was changed since.
        outputs, *state = gradients
        found = [_Rows(len(outputs)) for _ in range(max(program.gradients, default=0) + 1)]
        for time in reversed(range(len(outputs))):
            results = program.backward(*ctx.kept[time], outputs[time], *state)
            state = list(results[: program.parts])
            for rows, gradient in zip(found, results[program.parts :], strict=True):
                rows.put(time, gradient)
        pairs = [
            (ctx.given[vector].flat, found[gradient].flat)
            for vector, gradient in zip(program.vectors, program.gradients, strict=True)
        ]
        return (
            None,
            None,
            found[0].whole,
            *state,
            *_weight_gradients(program.products, pairs, ctx.precision),
        )


def _weight_gradients(
    products: Sequence[Product], pairs: Sequence[tuple[Tensor, Tensor]], precision: torch.dtype
) -> Iterator[Tensor]:
    """Yield the gradient of each parameter, in the order of `_parameters`.

    Args:
        products: In the order of their use.
        pairs: For each use, what was multiplied and the gradient of what came out, (time x batch, ...).
        precision: Of the products.
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
        for parameter in (product.weight_read, product.bias)
        if parameter is not None
    ]


def _arguments(products: Sequence[Product], precision: torch.dtype) -> list[Tensor]:
    return [
        argument for product in dict.fromkeys(products) for argument in product.arguments(precision)
    ]


_programs: WeakKeyDictionary[Cell, dict[object, Program]] = WeakKeyDictionary()


def _program_of(cell: Cell, projected: Tensor, state: State, precision: torch.dtype) -> Program:
    """Return the cell's program for these sizes, traced at its first use."""
    key = (projected.shape, projected.dtype, projected.device, precision)
    programs = _programs.setdefault(cell, {})
    if key not in programs:
        with torch.autograd.grad_mode.set_grad_enabled(True):
            programs[key] = _trace(
                cell, projected.detach(), [part.detach() for part in state], precision
            )
    return programs[key]


def _trace(
    cell: Cell, projected: Tensor, state: Sequence[Tensor], precision: torch.dtype
) -> Program:
    """Trace a step and its derivative, and part the two."""
    products: list[Product] = []

    def note(product: Product, vector: Tensor) -> Tensor:
        products.append(product)
        return product.plain(vector)

    with _tape(cell, note), torch.no_grad():
        cell.advance(projected, tuple(state))
    arguments = _arguments(products, precision)
    # A tensor that comes in twice would be one input to the tracer: each gets its own.
    tensors = [
        tensor.clone()
        for tensor in (projected, *state, *arguments, cell.output(tuple(state)), *state)
    ]
    joint = make_fx(_joint_step(cell, products, len(state)))(*tensors)
    (forward, vectors), (backward, gradients) = _part(
        joint.graph, len(tensors) - 1 - len(state), len(state)
    )
    return Program(
        tuple(products), len(state), forward.forward, backward.forward, vectors, gradients[1:]
    )


def _joint_step(cell: Cell, products: Sequence[Product], parts: int) -> Callable[..., Tensors]:
    """Return the function of a step, its results and its gradients together."""

    def step(*tensors: Tensor) -> Tensors:
        leaves = [tensor.detach().requires_grad_() for tensor in tensors[: 1 + parts]]
        rest = iter(tensors[1 + parts :])
        arguments = {
            product: [next(rest) for _ in product.arguments(torch.float32)]
            for product in dict.fromkeys(products)
        }
        vectors: list[Tensor] = []
        probes: list[Tensor] = []

        def note(product: Product, vector: Tensor) -> Tensor:
            probe = product.multiply(vector.detach(), *arguments[product]).requires_grad_()
            vectors.append(vector.detach())
            probes.append(probe)
            result: Tensor = _Noted.apply(product, vector, probe, *arguments[product])  # type: ignore[no-untyped-call]
            return result

        with _tape(cell, note):
            state = cell.advance(leaves[0], tuple(leaves[1:]))
        results = (cell.output(state), *state)
        projected, *before = leaves
        gradients = torch.autograd.grad(
            results,
            [*before, projected, *probes],
            list(rest),
            allow_unused=True,
            materialize_grads=True,
        )
        return (*(result.detach() for result in results), *vectors, *gradients)

    return step


class _Noted(torch.autograd.Function):
    """A product whose result's gradient arrives at `probe` as well, from where it is read."""

    @staticmethod
    def forward(
        ctx: Any, product: Product, vector: Tensor, probe: Tensor, *arguments: Tensor
    ) -> Tensor:
        ctx.product = product
        ctx.save_for_backward(*arguments)
        return product.multiply(vector, *arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        arguments = ctx.saved_tensors
        return (
            None,
            ctx.product.pull_back(gradient, *arguments),
            gradient,
            *(None for _ in arguments),
        )


@contextmanager
def _tape(cell: Cell, tape: Tape) -> Iterator[None]:
    """Lay a tape into the cell's products."""
    for product in cell.products():
        product.tape = tape
    try:
        yield
    finally:
        for product in cell.products():
            product.tape = None


def _part(
    joint: fx.Graph, inputs: int, parts: int
) -> tuple[tuple[fx.GraphModule, Places], tuple[fx.GraphModule, Places]]:
    """Part a traced step into what can be computed before any gradient is known, and the rest.

    Args:
        joint: What `_joint_step` does.
        inputs: How many of its inputs are the step's; the others are gradients.
        parts: Tensors in a state.

    Returns:
        Forward and backward, each with the place in its results of every product's tensor, as in `Program`.
    """
    for node in joint.find_nodes(op="call_function", target=torch.ops.aten.detach.default):
        node.replace_all_uses_with(
            node.all_input_nodes[0]
        )  # No gradient is recorded here: a detour without effect.
    joint.eliminate_dead_code()
    *nodes, end = joint.nodes
    placeholders = [node for node in nodes if node.op == "placeholder"]
    products = (len(end.args[0]) - 2 * parts - 2) // 2
    results, gradients = end.args[0][: 1 + parts + products], end.args[0][1 + parts + products :]
    after = set(placeholders[inputs:])
    for node in nodes:
        if any(source in after for source in node.all_input_nodes):
            after.add(node)
    # What no gradient reaches is computed before, also where a gradient alone wants it.
    wanted = [source for node in nodes if node in after for source in node.all_input_nodes] + list(
        gradients
    )
    needed = list(dict.fromkeys(source for source in wanted if source not in after))
    given, vectors = _distinct(results[1 + parts :])
    found, places = _distinct(gradients[parts:])
    before = [node for node in nodes if node not in after]
    forward = _subgraph(before, [*results[: 1 + parts], *given, *needed], placeholders[:inputs])
    backward = _subgraph(
        [node for node in nodes if node in after],
        [*gradients[:parts], *found],
        [*needed, *placeholders[inputs:]],
    )
    return (forward, vectors), (backward, places)


def _distinct(nodes: Sequence[fx.Node]) -> tuple[list[fx.Node], Places]:
    """Return each node once, and for all the place where it is."""
    once = list(dict.fromkeys(nodes))
    return once, tuple(once.index(node) for node in nodes)


def _subgraph(
    nodes: Sequence[fx.Node], results: Sequence[fx.Node], inputs: Sequence[fx.Node]
) -> fx.GraphModule:
    """Return a program of some of a graph's nodes."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    for node in nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in results))
    graph.eliminate_dead_code()
    return fx.GraphModule({}, graph)
