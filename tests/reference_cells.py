"""Every recurrence and the network around it once more: float64 numpy, plain loops, one sequence at a time.

Written from the equations of the papers alone, without torch, to be checked against them by eye. Notation: `w` holds
the weights by name, each matrix as (out, in); x is the input, h the hidden state, c the memory cell; `@` is the
matrix product, `*` the product by element; a state is a list of vectors, of which the first is the output.
"""

import re
from collections.abc import Callable, Iterable

import numpy as np

Vector = np.ndarray
State = list[Vector]
Weights = dict[str, np.ndarray]

# What a test need not say: the fields of the cell section and of the model section where nothing else is meant.
CELL = {
    "activation": "tanh",
    "reset": "after",
    "peepholes": (),
    "peephole_weights": "diagonal",
    "without": (),
    "coupled": False,
    "capped": False,
    "full_gate_recurrence": False,
}
MODEL = {
    "embedding": "learned",
    "skip": "none",
    "block": "none",
    "layer_norm": False,
    "initial_state": "zero",
    "tied": False,
}


def step(kind: str, options: dict, x: Vector, state: State, weights: Weights) -> State:
    """Return the state after one input: Goldberg's R (2017, chapter 14)."""
    assert all(weight.dtype == np.float64 for weight in weights.values()), (
        "the reference computes in float64"
    )
    return STEPS[kind](x, state, weights, CELL | options)


def output(kind: str, options: dict, state: State) -> Vector:
    """Return what the next layer sees: Goldberg's O (2017, chapter 14)."""
    return state[0]


def run(
    kind: str, options: dict, xs: Iterable[Vector], state: State, weights: Weights
) -> tuple[np.ndarray, State]:
    """Return the outputs, (time, size), and the last state."""
    outputs = []
    for x in xs:
        state = step(kind, options, x, state, weights)
        outputs.append(output(kind, options, state))
    return np.array(outputs), state


# The cells.


def sigmoid(a: Vector) -> Vector:
    return 1 / (1 + np.exp(-a))


def bag(x: Vector, state: State, w: Weights, options: dict) -> State:
    """A bag of words as a recurrence, CBOW (Goldberg 2017, section 15.1): no weights, no order."""
    (s,) = state
    return [s + x]


def elman(x: Vector, state: State, w: Weights, options: dict) -> State:
    """Elman 1990, with torch's two biases."""
    (h,) = state
    g = {"tanh": np.tanh, "relu": lambda a: np.maximum(a, 0), "sigmoid": sigmoid}[
        options["activation"]
    ]
    return [g(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"])]


def gru(x: Vector, state: State, w: Weights, options: dict) -> State:
    """Cho et al. 2014 (arXiv:1406.1078). In all three forms the update gate keeps the old state, as in torch."""
    return [GRUS[options["reset"]](x, state[0], w)]


def gru_reset_after(x: Vector, h: Vector, w: Weights) -> Vector:
    """Version 1 of Cho et al., equation 8, and torch: the reset multiplies the recurrent product and its bias."""
    r_x, u_x, c_x = np.split(w["weight_ih"] @ x + w["bias_ih"], 3)
    r_h, u_h, c_h = np.split(w["weight_hh"] @ h + w["bias_hh"], 3)
    r, u = sigmoid(r_x + r_h), sigmoid(u_x + u_h)
    candidate = np.tanh(c_x + r * c_h)
    return (1 - u) * candidate + u * h


def gru_reset_before(x: Vector, h: Vector, w: Weights) -> Vector:
    """Version 3 of Cho et al., equations 5 to 8: the reset multiplies the state."""
    r_x, u_x, c_x = np.split(w["weight_ih"] @ x + w["bias_ih"], 3)
    r_h, u_h = np.split(w["weight_hh"] @ h, 2)
    r, u = sigmoid(r_x + r_h), sigmoid(u_x + u_h)
    candidate = np.tanh(c_x + w["weight_ch"] @ (r * h))
    return (1 - u) * candidate + u * h


def gru_reset_none(x: Vector, h: Vector, w: Weights) -> Vector:
    """The simplified GRU of textbooks: r = 1 in either form above."""
    u_x, c_x = np.split(w["weight_ih"] @ x + w["bias_ih"], 2)
    u_h, c_h = np.split(w["weight_hh"] @ h, 2)
    u = sigmoid(u_x + u_h)
    candidate = np.tanh(c_x + c_h)
    return (1 - u) * candidate + u * h


def lstm(x: Vector, state: State, w: Weights, options: dict) -> State:
    return plain_lstm(x, state, w) if is_plain(options) else lstm_variant(x, state, w, options)


def is_plain(options: dict) -> bool:
    return not any(
        options[name]
        for name in ("peepholes", "without", "coupled", "capped", "full_gate_recurrence")
    )


def plain_lstm(x: Vector, state: State, w: Weights) -> State:
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000 and torch's two biases."""
    h, c = state
    return lstm_from(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"], c)


def lstm_from(sums: Vector, c: Vector) -> State:
    """The same from the four sums on; gates in torch's order: input, forget, candidate, output."""
    i, f, candidate, o = np.split(sums, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
    return [sigmoid(o) * np.tanh(c), c]


def gates_of(options: dict) -> list[str]:
    """The gates that have weights, in their order: an absent gate is 1, a coupled forget gate is 1 - input."""
    absent = {name.removesuffix("_gate") for name in options["without"]} | (
        {"forget"} if options["coupled"] else set()
    )
    return [name for name in ("input", "forget", "output") if name not in absent]


def lstm_variant(x: Vector, state: State, w: Weights, options: dict) -> State:
    """The variants of Greff et al. 2015 (arXiv:1503.04069, section 3); peepholes of Gers and Schmidhuber 2000.

    With full gate recurrence the state is (h, c, and the gates of the step before, a part for each that has weights).
    """
    h, c, *gates_before = state
    gates = gates_of(options)
    assert set(options["peepholes"]) <= set(gates), "a peephole needs its gate"
    *sums, candidate = np.split(
        w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h, len(gates) + 1
    )
    if options["full_gate_recurrence"]:
        from_gates = np.split(w["weight_gates"] @ np.concatenate(gates_before), len(gates))
        sums = [a + b for a, b in zip(sums, from_gates, strict=True)]
    sum_of = dict(zip(gates, sums, strict=True))

    def gate(name: str, memory: Vector) -> Vector:
        if name not in gates:
            return np.ones_like(c)
        return sigmoid(sum_of[name] + peephole(name, memory, w, options))

    i = gate("input", c)
    f = 1 - i if options["coupled"] else gate("forget", c)
    if options["capped"]:
        i = np.where(i > 1 - f, 1 - f, i)
    if "input_activation" not in options["without"]:
        candidate = np.tanh(candidate)
    c = f * c + i * candidate
    o = gate("output", c)  # The new memory: the other two gates saw the old one.
    h = o * (c if "output_activation" in options["without"] else np.tanh(c))
    if options["full_gate_recurrence"]:
        value_of = {"input": i, "forget": f, "output": o}
        return [h, c, *(value_of[name] for name in gates)]
    return [h, c]


def peephole(name: str, memory: Vector, w: Weights, options: dict) -> Vector | float:
    """Gers and Schmidhuber 2000: each unit's gates see its own memory; with full matrices, every unit's."""
    if name not in options["peepholes"]:
        return 0.0
    weight = w[f"peephole_{name}"]
    return weight @ memory if options["peephole_weights"] == "full" else weight * memory


def nested_lstm(x: Vector, state: State, w: Weights, options: dict) -> State:
    """Moniz and Krueger 2018 (arXiv:1801.10308): an LSTM whose memory is computed by an LSTM, and so on."""
    h, *memories = state
    inner = [
        (w[f"inner.{level}.weight"], w[f"inner.{level}.bias"])
        for level in range(options["depth"] - 1)
    ]
    return nested_level(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h, memories, inner)


def nested_level(
    sums: Vector, memories: list[Vector], inner: list[tuple[np.ndarray, Vector]]
) -> State:
    """Return a level's output, its memory and those inside it; gates in the order input, forget, output, candidate.

    The next level in reads i * z as its input (z linear) and f * c as its hidden state; its output is the new c.
    """
    i, f, o, z = np.split(sums, 4)
    i, f, o = sigmoid(i), sigmoid(f), sigmoid(o)
    c, *deeper = memories
    if inner:
        (weight, bias), *rest = inner
        c, *deeper = nested_level(weight @ np.concatenate([i * z, f * c]) + bias, deeper, rest)
    else:
        c = f * c + i * np.tanh(z)
    return [o * np.tanh(c), c, *deeper]


def mogrifier_lstm(x: Vector, state: State, w: Weights, options: dict) -> State:
    """Melis et al. 2020 (arXiv:1909.01792), section 2: x and h gate one another in turn, then a plain LSTM."""
    h, c = state
    for i in range(1, options["rounds"] + 1):
        if i % 2 == 1:
            x = 2 * sigmoid(mogrifier_matrix(i, w, options) @ h) * x
        else:
            h = 2 * sigmoid(mogrifier_matrix(i, w, options) @ x) * h
    return lstm_from(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h, c)


def mogrifier_matrix(i: int, w: Weights, options: dict) -> np.ndarray:
    """Q of an odd round i, (input, hidden), or R of an even one, (hidden, input); of low rank unless rank is None."""
    if options["rank"] is None:
        return w[f"mogrifier.{i - 1}.weight"]
    left, right = w[f"mogrifier.{i - 1}.left"], w[f"mogrifier.{i - 1}.right"]
    assert left.shape[1] == right.shape[0] == options["rank"]
    return left @ right


def min_gru(x: Vector, state: State, w: Weights, options: dict) -> State:
    """Feng et al. 2024 (arXiv:2410.01201), section 3.1; unlike in `gru` the gate z lets the new in."""
    (h,) = state
    z, candidate = np.split(w["weight_ih"] @ x + w["bias_ih"], 2)
    z = sigmoid(z)
    return [(1 - z) * h + z * candidate]


def min_lstm(x: Vector, state: State, w: Weights, options: dict) -> State:
    """Feng et al. 2024 (arXiv:2410.01201v1), section 3.2, its gates normalized to a sum of one."""
    (h,) = state
    f, i, candidate = np.split(w["weight_ih"] @ x + w["bias_ih"], 3)
    f, i = sigmoid(f), sigmoid(i)
    return [f / (f + i) * h + i / (f + i) * candidate]


def rg_lru(x: Vector, state: State, w: Weights, options: dict) -> State:
    """De et al. 2024 (arXiv:2402.19427), equations 1 to 4, c = 8; the input is a map of x."""
    (h,) = state
    r, i, candidate = np.split(w["weight_ih"] @ x + w["bias_ih"], 3)
    a = (1 / (1 + np.exp(w["decay"]))) ** (8 * sigmoid(r))
    return [a * h + np.sqrt(1 - a**2) * sigmoid(i) * candidate]


def hgrn(x: Vector, state: State, w: Weights, options: dict) -> State:
    """Qin et al. 2023 (arXiv:2311.04823), equations 1 to 5, the state real; one layer alone has no lower bound."""
    (h,) = state
    forget, candidate = np.split(w["weight_ih"] @ x + w["bias_ih"], 2)
    lower = w.get("lower_bound", 0.0)
    f = lower + (1 - lower) * sigmoid(forget)
    return [f * h + (1 - f) * candidate * sigmoid(candidate)]


def lower_bound(layer: int, bounds: np.ndarray) -> Vector:
    """Return the bound of a layer, of all layers' parameters, (layers, hidden): equation 6 of Qin et al. 2023."""
    shares = np.exp(bounds) / np.exp(bounds).sum(axis=0)
    return np.cumsum(shares, axis=0)[layer] - shares[0]


def slstm(x: Vector, state: State, w: Weights, options: dict) -> State:
    """Beck et al. 2024 (arXiv:2405.04517), section 2.2, equations 8 to 17, with f = sigmoid; gates: i, f, z, o.

    A state that no step leads to can have n < |c|: then n is |c|, plus 1e-30 against 0 / 0.
    """
    h, c, n, m = state
    n = np.maximum(n, abs(c)) + 1e-30
    log_i, f, z, o = np.split(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h, 4)
    log_f = -np.log1p(np.exp(-f))
    m_after = np.maximum(log_f + m, log_i)
    i, f = np.exp(log_i - m_after), np.exp(log_f + m - m_after)
    c = f * c + i * np.tanh(z)
    n = f * n + i
    return [sigmoid(o) * c / n, c, n, m_after]


def diagonal_gru(x: Vector, state: State, w: Weights, options: dict) -> State:
    """The GRU of ParaRNN (Danieli et al. 2025, arXiv:2510.21450): the matrices of h are diagonal; u keeps h."""
    (h,) = state
    r_x, u_x, c_x = np.split(w["weight_ih"] @ x + w["bias_ih"], 3)
    w_r, w_u, w_c = np.split(w["weight_hh"], 3)
    r, u = sigmoid(r_x + w_r * h), sigmoid(u_x + w_u * h)
    return [(1 - u) * np.tanh(c_x + w_c * (r * h)) + u * h]


def diagonal_lstm(x: Vector, state: State, w: Weights, options: dict) -> State:
    """The plain LSTM with diagonal matrices of h; gates in torch's order."""
    h, c = state
    return lstm_from(w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] * np.tile(h, 4), c)


GRUS = {"after": gru_reset_after, "before": gru_reset_before, "none": gru_reset_none}
STEPS = {
    "bag": bag,
    "elman": elman,
    "gru": gru,
    "lstm": lstm,
    "nested_lstm": nested_lstm,
    "mogrifier_lstm": mogrifier_lstm,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "rg_lru": rg_lru,
    "hgrn": hgrn,
    "slstm": slstm,
    "diagonal_gru": diagonal_gru,
    "diagonal_lstm": diagonal_lstm,
}


# The network around the cells.


def network(
    model: dict, ids: Iterable[int], weights: Weights, states: list[State] | None = None
) -> tuple[np.ndarray, list[State]]:
    """Return the logits, (time, vocabulary), and each layer's last state, of a model that reads forward.

    Layer normalization before each layer but the first and before the projection: pre-norm (Xiong et al. 2020,
    arXiv:2002.04745). Residual from the second layer on: what is added is not normalized.
    """
    model = MODEL | model
    kind, options = model["cell"]["kind"], model["cell"]
    given = [embed(token, model, weights) for token in ids]
    outputs, after = [], []
    for layer in range(model["num_layers"]):
        norms = f"recurrence.blocks.{layer}.mixing_norm.weight"
        seen = (
            [root_mean_square(x, weights[norms]) for x in given]
            if model["block"] == "griffin"
            else [normalize(x, layer - 1, weights) for x in given]
            if model["layer_norm"] and layer > 0
            else given
        )
        state = (
            initial_state(model, layer, len(given[0]), weights) if states is None else states[layer]
        )
        made, state = run(kind, options, seen, state, cell_weights(kind, options, layer, weights))
        if model["block"] == "griffin":
            made = np.array(
                [
                    griffin(x, n, y, layer, weights)
                    for x, n, y in zip(given, seen, made, strict=True)
                ]
            )
        residual = model["skip"] == "residual" and layer > 0
        given = [x + y for x, y in zip(given, made, strict=True)] if residual else list(made)
        outputs.append(given)
        after.append(state)
    result = (
        [sum(parts) for parts in zip(*outputs, strict=True)] if model["skip"] == "sum" else given
    )
    if model["layer_norm"]:
        result = [normalize(y, model["num_layers"] - 1, weights) for y in result]
    if model["block"] == "griffin":
        last = weights[f"recurrence.norms.{model['num_layers'] - 1}.weight"]
        result = [root_mean_square(y, last) for y in result]
    return np.array([project(y, model, weights) for y in result]), after


def root_mean_square(x: Vector, weight: Vector) -> Vector:
    """Zhang and Sennrich 2019 (arXiv:1910.07467), with 1e-6 under the root."""
    return weight * x / np.sqrt((x**2).mean() + 1e-6)


def gelu(x: Vector) -> Vector:
    """Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2: the approximation by tanh."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def griffin(x: Vector, normal: Vector, y: Vector, layer: int, weights: Weights) -> Vector:
    """Return the stream after a layer that read `normal` and gave y: De et al. 2024, figure 2, without convolution."""
    w = {
        name: weights[f"recurrence.blocks.{layer}.{name}.weight"]
        for name in ("gate", "output", "mlp_norm", "mlp_input", "mlp_output")
    }
    x = x + w["output"] @ (gelu(w["gate"] @ normal) * y)
    gate, value = np.split(w["mlp_input"] @ root_mean_square(x, w["mlp_norm"]), 2)
    return x + w["mlp_output"] @ (gelu(gate) * value)


def embed(token: int, model: dict, weights: Weights) -> Vector:
    if model["embedding"] == "one_hot":
        return np.eye(len(weights["projection.bias"]))[token]
    return weights["embedding.weight"][token]


def project(y: Vector, model: dict, weights: Weights) -> Vector:
    """Tied: Press and Wolf 2017; an output adapter where the layer's size is not the embedding's."""
    if "output_adapter.weight" in weights:
        y = weights["output_adapter.weight"] @ y
    return (
        weights["embedding.weight" if model["tied"] else "projection.weight"] @ y
        + weights["projection.bias"]
    )


def normalize(x: Vector, layer: int, weights: Weights) -> Vector:
    """Ba et al. 2016 (arXiv:1607.06450), over the units of one token; 1e-5 keeps a constant vector finite."""
    normal = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean() + 1e-5)
    return (
        weights[f"recurrence.norms.{layer}.weight"] * normal
        + weights[f"recurrence.norms.{layer}.bias"]
    )


def initial_state(model: dict, layer: int, input_size: int, weights: Weights) -> State:
    """Zeros, or the learned vectors. `hidden_size` is one size for every layer, or one a layer."""
    sizes = np.broadcast_to(model["hidden_size"], model["num_layers"])
    size = input_size if model["cell"]["kind"] == "bag" else sizes[layer]
    parts = range(count_parts(model["cell"]["kind"], CELL | model["cell"]))
    if model["initial_state"] == "learned":
        return [weights[f"recurrence.initial.{layer}.{part}"] for part in parts]
    return [np.zeros(size) for _ in parts]


def count_parts(kind: str, options: dict) -> int:
    if kind == "nested_lstm":
        return 1 + options["depth"]
    if kind == "lstm" and options["full_gate_recurrence"]:
        return 2 + len(gates_of(options))
    if kind == "slstm":
        return 4
    return 2 if kind in ("lstm", "mogrifier_lstm", "diagonal_lstm") else 1


def cell_weights(kind: str, options: dict, layer: int, weights: Weights) -> Weights:
    """Return one layer's weights under the names that `step` knows."""
    prefix, suffix = f"recurrence.cells.{layer}.", ""
    if is_torch(kind, CELL | options):
        prefix, suffix = prefix + "kernel.", "_l0"
    found = {
        name.removeprefix(prefix).removesuffix(suffix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    if kind == "hgrn":
        names = sorted(
            name for name in weights if re.fullmatch(r"recurrence\.cells\.\d+\.bound", name)
        )
        found["lower_bound"] = lower_bound(layer, np.stack([weights[name] for name in names]))
    return found


def is_torch(kind: str, options: dict) -> bool:
    """Whether torch has a fused layer of this kind: its weights then carry torch's names, `bias_hh` among them."""
    return (
        kind == "elman"
        or (kind == "gru" and options["reset"] == "after")
        or (kind == "lstm" and is_plain(options))
    )


# Gradients.


def numerical_gradients(
    loss: Callable[[Weights], float],
    weights: Weights,
    names_and_indices: Iterable[tuple[str, tuple[int, ...]]],
    step: float = 1e-5,
) -> np.ndarray:
    """Return the central difference of the loss at each entry asked for; the weights are left as they were."""

    def moved(name: str, index: tuple[int, ...], by: float) -> float:
        changed = weights[name].copy()
        changed[index] += by
        return loss(weights | {name: changed})

    return np.array(
        [
            (moved(name, index, step) - moved(name, index, -step)) / (2 * step)
            for name, index in names_and_indices
        ]
    )
