"""The recurrences once more, in float64 and plain loops, from the equations alone: no layer of torch."""

import math

Vector = list[float]
Matrix = list[list[float]]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def affine(weights: Matrix, vector: Vector, bias: Vector) -> Vector:
    return [sum(w * v for w, v in zip(row, vector, strict=True)) + b for row, b in zip(weights, bias, strict=True)]


def elman(x: Vector, state: list[Vector], weights: dict, activation: str) -> list[Vector]:
    apply = {"tanh": math.tanh, "relu": lambda value: max(value, 0.0), "sigmoid": sigmoid}[activation]
    from_x = affine(weights["weight_ih"], x, weights["bias_ih"])
    from_h = affine(weights["weight_hh"], state[0], weights["bias_hh"])
    return [[apply(a + b) for a, b in zip(from_x, from_h, strict=True)]]


def gru(x: Vector, state: list[Vector], weights: dict, activation: str) -> list[Vector]:
    size = len(state[0])
    from_x = affine(weights["weight_ih"], x, weights["bias_ih"])
    from_h = affine(weights["weight_hh"], state[0], weights["bias_hh"])
    hidden = []
    for unit, old in enumerate(state[0]):
        reset = sigmoid(from_x[unit] + from_h[unit])
        update = sigmoid(from_x[size + unit] + from_h[size + unit])
        candidate = math.tanh(from_x[2 * size + unit] + reset * from_h[2 * size + unit])
        hidden.append((1 - update) * candidate + update * old)
    return [hidden]


def lstm(x: Vector, state: list[Vector], weights: dict, activation: str) -> list[Vector]:
    size = len(state[0])
    from_x = affine(weights["weight_ih"], x, weights["bias_ih"])
    from_h = affine(weights["weight_hh"], state[0], weights["bias_hh"])
    gates = [a + b for a, b in zip(from_x, from_h, strict=True)]
    hidden, memory = [], []
    for unit, old in enumerate(state[1]):
        input_gate, forget = sigmoid(gates[unit]), sigmoid(gates[size + unit])
        candidate, output = math.tanh(gates[2 * size + unit]), sigmoid(gates[3 * size + unit])
        memory.append(forget * old + input_gate * candidate)
        hidden.append(output * math.tanh(memory[-1]))
    return [hidden, memory]


STEPS = {"elman": elman, "gru": gru, "lstm": lstm}
