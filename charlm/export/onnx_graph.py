"""One step of a model as an ONNX graph.

The step of sampling is traced by torch into a list of torch's operators, and each of them becomes
one or a few operators of ONNX. So every recurrence, projection and product in int8 is exported
from its own equations. torch's exporter does the same through two further packages, in seconds
instead of a tenth of one, and with a FutureWarning.
"""

import hashlib
import math
import operator
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from charlm.errors import CharlmError
from charlm.model.embedding import OneHot
from charlm.model.fast.int8 import Int8Matrix, has_int8_products
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States
from charlm.sampling.stepper import Stepper

# The version of ONNX 1.13 (2022): the first with all operators that are used here.
_OPSET, _IR_VERSION = 18, 8
# Batch size of the trace: a prime that divides no other size.
_BATCH = 1_000_003
# onnxruntime multiplies uint8 with int8 forty times as fast as int8 with int8, so 128 is added to
# the numbers of a vector.
_ZERO_POINT = np.uint8(128)
# Types of ids, and of states.
_ONNX_TYPES = {torch.int64: TensorProto.INT64, torch.float32: TensorProto.FLOAT}
# Operators of torch that have a counterpart with the same arguments.
_SAME = {
    "abs": "Abs",
    "add": "Add",
    "exp": "Exp",
    "div": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "relu": "Relu",
    "remainder": "Mod",
    "round": "Round",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}


class Transposed(NamedTuple):
    """The transpose of a constant.

    Attributes:
        array: The constant itself.
    """

    array: npt.NDArray[Any]


# What an argument of an operator stands for: the name of a result, a constant, or several of them.
Value = Any


@torch.no_grad()
def step_to_onnx(model: LanguageModel) -> onnx.ModelProto:
    """Return the ONNX model of one step, for any batch size.

    Inputs are `token`, int64, (batch,), and `state_0` ..., fp32, (batch, hidden), in the order of
    the layers, then for n-grams the last ids, fp32, (batch, order - 1). Outputs are `logits`, fp32,
    (batch, vocabulary), and `next_state_0` ...
    """
    widths = [part.shape[-1] for state in model.initial_states(1) for part in state]
    # Expanded tensors take no memory. The tracer would take one tensor given twice as one input.
    states = [torch.zeros(width).expand(_BATCH, width) for width in widths]
    traced = make_fx(_step_of(model), tracing_mode="fake", _allow_non_fake_inputs=True)(
        torch.zeros((), dtype=torch.int64).expand(_BATCH), *states
    )
    names = [f"state_{number}" for number in range(len(states))]
    is_one_hot = isinstance(model.encoder.embedding, OneHot)
    graph = _Graph(int8_embedding=has_int8_products(model) and not is_one_hot)
    graph.translate(traced, ["token", *names], ["logits", *(f"next_{name}" for name in names)])
    return graph.model(
        inputs=[
            helper.make_tensor_value_info("token", TensorProto.INT64, ["batch"]),
            *map(_float_info, names, widths),
        ],
        outputs=[
            _float_info("logits", model.vocabulary_size),
            *(
                _float_info(f"next_{name}", width)
                for name, width in zip(names, widths, strict=True)
            ),
        ],
    )


def _step_of(model: LanguageModel) -> Callable[..., tuple[Tensor, ...]]:
    """Return the step with a flat list of states."""
    # The table of the stepper is larger than the weights it is computed from, but for unit vectors.
    is_one_hot = isinstance(model.encoder.embedding, OneHot)
    stepper = Stepper(model, max_table_size=None if is_one_hot else 0)

    counts = [len(state) for state in model.initial_states(1)]

    def step(token: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        rest = iter(parts)
        states: States = tuple(tuple(islice(rest, count)) for count in counts)
        logits, states = stepper(token, states)
        return logits, *(part for state in states for part in state)

    return step


def _float_info(name: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])


class _Graph:
    """The nodes and constants of an ONNX graph."""

    def __init__(self, *, int8_embedding: bool) -> None:
        self.int8_embedding = int8_embedding
        self._nodes: list[onnx.NodeProto] = []
        # Keys are hashes of type, shape and values.
        self._constants: dict[bytes, onnx.TensorProto] = {}

    def add(self, kind: str, *inputs: Value, outputs: int = 1, **attributes: Any) -> Value:
        """Add a node; return the name of its result, or the list of their names."""
        first = len(self._nodes)
        names = [f"{kind}_{first}_{number}" for number in range(outputs)]
        node = helper.make_node(kind, [self.name(value) for value in inputs], names, **attributes)
        self._nodes.append(node)
        return names[0] if outputs == 1 else names

    def name(self, value: Value) -> str:
        """Return the name of a result or of a constant. Equal constants are stored once."""
        if isinstance(value, str):
            return value
        if isinstance(value, Transposed):
            value = value.array.T
        is_number = isinstance(value, int | float)
        array = np.ascontiguousarray(value, dtype=np.float32 if is_number else None)
        array = array.reshape(np.shape(value))
        facts = f"{array.dtype} {array.shape} ".encode()
        key = hashlib.sha256(facts + array.tobytes()).digest()
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(array, name)
        return str(self._constants[key].name)

    def translate(
        self, traced: fx.GraphModule, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        """Add the nodes of a traced function, whose arguments and results have these names."""
        values: dict[fx.Node, Value] = {}
        names = iter(inputs)
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(names)
            elif node.op == "get_attr":
                values[node] = getattr(traced, node.target).detach().cpu().numpy()
            elif node.op == "call_function":
                arguments = fx.map_arg(node.args, values.__getitem__)
                values[node] = self._translate_node(node, arguments)
            elif node.op == "output":
                for result, name in zip(node.args[0], outputs, strict=True):
                    identity = helper.make_node("Identity", [self.name(values[result])], [name])
                    self._nodes.append(identity)

    def _translate_node(self, node: fx.Node, arguments: Sequence[Value]) -> Value:
        if node.target is operator.getitem:
            return arguments[0][arguments[1]]
        # An operator that writes to its argument is used as its result: the name ends in _.
        name = node.target.overloadpacket.__name__.rstrip("_")  # type: ignore[union-attr]
        if name in _SAME:
            if node.kwargs:
                options = ", ".join(node.kwargs)
                raise CharlmError(f"export to onnx: the option {options} of {name} is not expected")
            if node.meta["val"].dtype == torch.int64:
                arguments = [np.int64(x) if isinstance(x, int) else x for x in arguments]
            return self.add(_SAME[name], *arguments)
        if name not in _TRANSLATORS:
            raise CharlmError(f"export to onnx: the operator {name} of torch has no counterpart")
        return _TRANSLATORS[name](self, node, *arguments)

    def model(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        """Return the checked model."""
        graph = helper.make_graph(
            self._nodes, "step", inputs, outputs, initializer=list(self._constants.values())
        )
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def _integers(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _reshape(graph: _Graph, node: fx.Node, x: Value, _: Sequence[int]) -> Value:
    sizes = node.meta["val"].shape
    if sizes == node.all_input_nodes[0].meta["val"].shape:
        return x
    # A size that is a multiple of the traced batch size depends on the batch size.
    shape = _integers(*(-1 if size % _BATCH == 0 else size for size in sizes))
    return graph.add("Reshape", x, shape)


def _rows(graph: _Graph, node: fx.Node, rows: Value, ids: Sequence[Value]) -> Value:
    """Add the lookup of embeddings. In int8 they have the scales that a product gives them."""
    if not graph.int8_embedding:
        return graph.add("Gather", rows, ids[0])
    matrix = Int8Matrix(nn.Parameter(torch.from_numpy(rows)), in_integers=True)
    scales = matrix.scales[:, None].numpy()
    integers = graph.add("Gather", matrix.transposed.t().numpy(), ids[0])
    numbers = graph.add("Cast", integers, to=TensorProto.FLOAT)
    return graph.add("Mul", numbers, graph.add("Gather", scales, ids[0]))


def _to_copy(graph: _Graph, node: fx.Node, x: Value) -> Value:
    if node.meta["val"].dtype in _ONNX_TYPES:
        return graph.add("Cast", x, to=_ONNX_TYPES[node.meta["val"].dtype])
    if node.kwargs["dtype"] != torch.int8:
        raise CharlmError(f"export to onnx: the type {node.kwargs['dtype']} is not expected")
    return graph.add("Cast", graph.add("Add", x, float(_ZERO_POINT)), to=TensorProto.UINT8)


def _integer_product(graph: _Graph, node: fx.Node, vector: Value, transposed: Value) -> Value:
    # onnxruntime transposes a constant once. So a matrix that is also the embedding is stored once.
    matrix = graph.add("Transpose", transposed.T, perm=[1, 0])
    products = graph.add("MatMulInteger", vector, matrix, _ZERO_POINT)
    return graph.add("Cast", products, to=TensorProto.FLOAT)


def _product(graph: _Graph, vector: Value, matrix: Value, *bias: Value) -> Value:
    if isinstance(matrix, Transposed):  # A matrix that is also the embedding is stored once.
        return graph.add("Gemm", vector, matrix.array, *bias, transB=1)
    return graph.add("Gemm", vector, matrix, *bias)


def _transpose(graph: _Graph, node: fx.Node, x: Value) -> Value:
    return graph.add("Transpose", x, perm=[1, 0]) if isinstance(x, str) else Transposed(x)


def _split(graph: _Graph, node: fx.Node, x: Value, size: int, axis: int) -> Value:
    sizes = _integers(*(part.shape[axis] for part in node.meta["val"]))
    names = graph.add("Split", x, sizes, outputs=len(sizes), axis=axis)
    return names if len(sizes) > 1 else [names]


def _log_sigmoid(graph: _Graph, node: fx.Node, x: Value) -> Value:
    # The second result of torch's operator is a buffer for the gradient.
    return [graph.add("Neg", graph.add("Softplus", graph.add("Neg", x))), None]


def _expm1(graph: _Graph, node: fx.Node, x: Value) -> Value:
    """Add 2 tanh(x / 2) / (1 - tanh(x / 2)), which keeps the digits of small x."""
    tanh = graph.add("Tanh", graph.add("Mul", x, 0.5))
    return graph.add("Div", graph.add("Mul", tanh, 2.0), graph.add("Sub", 1.0, tanh))


def _addcmul(graph: _Graph, node: fx.Node, x: Value, first: Value, second: Value) -> Value:
    """Add x + value · first · second."""
    product = graph.add("Mul", first, second)
    value = node.kwargs.get("value", 1)
    if value != 1:
        product = graph.add("Mul", product, cast(float, value))
    return graph.add("Add", x, product)


def _gelu(graph: _Graph, node: fx.Node, x: Value) -> Value:
    """Add 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))): the only kind of gelu in a model."""
    cube = graph.add("Mul", graph.add("Mul", x, x), x)
    inner = graph.add("Add", x, graph.add("Mul", cube, 0.044715))
    tanh = graph.add("Tanh", graph.add("Mul", inner, math.sqrt(2 / math.pi)))
    return graph.add("Mul", graph.add("Mul", x, 0.5), graph.add("Add", tanh, 1.0))


def _stack(graph: _Graph, node: fx.Node, parts: Sequence[Value], axis: int = 0) -> Value:
    rows = [graph.add("Unsqueeze", part, _integers(axis)) for part in parts]
    return graph.add("Concat", *rows, axis=axis)


def _layer_norm(
    graph: _Graph,
    node: fx.Node,
    x: Value,
    shape: Sequence[int],
    weight: Value,
    bias: Value,
    epsilon: float,
) -> Value:
    normalized = graph.add("LayerNormalization", x, weight, bias, axis=-len(shape), epsilon=epsilon)
    return [normalized, None, None]  # Mean and deviation are for the gradient.


# From the graph, the traced node, and the arguments of torch's operator to the result.
_TRANSLATORS: dict[str, Callable[..., Value]] = {
    "_int_mm": _integer_product,
    "_log_softmax": lambda graph, node, x, axis, _: graph.add("LogSoftmax", x, axis=axis),
    "_softmax": lambda graph, node, x, axis, _: graph.add("Softmax", x, axis=axis),
    "_to_copy": _to_copy,
    "_unsafe_view": _reshape,
    "addcmul": _addcmul,
    "addmm": lambda graph, node, bias, x, matrix: _product(graph, x, matrix, bias),
    "amax": lambda graph, node, x, axes, keep: graph.add(
        "ReduceMax", x, _integers(*axes), keepdims=int(keep)
    ),
    "cat": lambda graph, node, parts, axis=0: graph.add("Concat", *parts, axis=axis),
    "clamp": lambda graph, node, x, least: graph.add("Max", x, least),
    "clone": lambda graph, node, x: x,
    "detach": lambda graph, node, x: x,
    "embedding": lambda graph, node, rows, ids: _rows(graph, node, rows, [ids]),
    "expm1": _expm1,
    "gelu": lambda graph, node, x, **_: _gelu(graph, node, x),
    "index": _rows,
    "log_sigmoid_forward": _log_sigmoid,
    "logsumexp": lambda graph, node, x, axes: graph.add(
        "ReduceLogSumExp", x, _integers(*axes), keepdims=0
    ),
    "mean": lambda graph, node, x, axes, keep: graph.add(
        "ReduceMean", x, _integers(*axes), keepdims=int(keep)
    ),
    "mm": lambda graph, node, x, matrix: _product(graph, x, matrix),
    "native_layer_norm": _layer_norm,
    "new_full": lambda graph, node, x, sizes, number: number,
    "ones_like": lambda graph, node, x: 1.0,
    "rsqrt": lambda graph, node, x: graph.add("Reciprocal", graph.add("Sqrt", x)),
    "rsub": lambda graph, node, x, number: graph.add("Sub", number, x),
    "select": lambda graph, node, x, axis, index: graph.add(
        "Gather", x, np.int64(index), axis=axis
    ),
    "silu": lambda graph, node, x: graph.add("Mul", x, graph.add("Sigmoid", x)),
    "slice": lambda graph, node, x, axis, start, end: graph.add(
        "Slice", x, _integers(start), _integers(end), _integers(axis)
    ),
    "softplus": lambda graph, node, x: graph.add("Softplus", x),
    "split": _split,
    "stack": _stack,
    "t": _transpose,
    "sum": lambda graph, node, x, axes: graph.add("ReduceSum", x, _integers(*axes), keepdims=0),
    "unsqueeze": lambda graph, node, x, axis: graph.add("Unsqueeze", x, _integers(axis)),
    "view": _reshape,
}
