"""The weights and parts of a model in words, from their names in files."""

import re
from collections.abc import Iterator

from charlm.model.any_model import AnyModel
from charlm.model.language_model import named_weights

_KINDS = {
    "bag": "bag",
    "elman": "Elman",
    "gru": "GRU",
    "lstm": "LSTM",
    "nested_lstm": "Nested LSTM",
    "mogrifier_lstm": "Mogrifier LSTM",
    "min_gru": "min GRU",
    "min_lstm": "min LSTM",
    "rg_lru": "RG-LRU",
    "hgrn": "HGRN",
    "slstm": "sLSTM",
    "diagonal_gru": "diagonal GRU",
    "diagonal_lstm": "diagonal LSTM",
}
_VALUES = {"weight": "weights", "bias": "biases"}
# Within a cell: pattern of the name, and its description. {0}, {1} are the groups of the pattern;
# a number is counted from 1.
_CELL_PARTS = {
    r"kernel\.(weight|bias)_ih_l0": "input {0}",
    r"kernel\.(weight|bias)_hh_l0": "recurrent {0}",
    r"(input|recurrent)\.(weight|bias)": "{0} {1}",
    r"candidate\.(weight|bias)": "recurrent {0} of the candidate",
    r"diagonals\.weight": "diagonal recurrent weights",
    r"peepholes\.(\w+)\.weight": "peephole of the {0} gate",
    r"decay": "decay of each unit",
    r"bound": "lower bound of the forget gate",
    r"gate_recurrence\.weight": "weights from the gates of the step before",
    r"inner\.(\d+)\.(weight|bias)": "inner LSTM {0}, {1}",
    r"mogrifier\.(\d+)\.weight": "weights of round {0}",
    r"mogrifier\.(\d+)\.(\d+)\.weight": "weights of round {0}, factor {1}",
}
# Parts of a cell whose first dimension is the number of gates times the number of units.
_GATED = re.compile(r"(kernel|input|recurrent|diagonals|inner|gate_recurrence)\.")
_OTHER_PARTS = {
    r"embedding\.weight": "embedding",
    r"ngrams\.weight": "rows of the hash tables of n-grams",
    r"bridge\.weight": "output adapter",
    r"projection\.(weight|bias)": "projection, {0}",
    r"head\.(weight|bias)": "labels, {0}",
    r"bridge\.(\d+)\.(\d+)\.(weight|bias)": "bridge, layer {0}, state tensor {1}, {2}",
    r"attention\.query\.(weight|bias)": "attention, {0} of the target's features",
    r"attention\.key\.weight": "attention, weights of the source's features",
    r"attention\.score\.weight": "attention, weights of the scores",
    r"attention\.output\.weight": "attention, weights of the context",
    r"projection\.prior\.weight": "projection, weights of the mixture",
    r"projection\.latent\.(weight|bias)": "projection, {0} of each softmax's input",
    r"projection\.layers\.head\.(weight|bias)": "projection, {0} of frequent tokens and clusters",
    r"projection\.layers\.tail\.(\d+)\.0\.weight": "projection, input weights of cluster {0}",
    r"projection\.layers\.tail\.(\d+)\.1\.weight": "projection, weights of cluster {0}",
}
_DECODER = "decoder."
_LAYER_PARTS = {
    r"blocks\.mixing_norm\.weight": "normalization before the recurrence",
    r"blocks\.gate\.weight": "weights of the gate beside the recurrence",
    r"blocks\.output\.weight": "weights from the recurrence to the stream",
    r"blocks\.mlp_norm\.weight": "normalization before the MLP",
    r"blocks\.mlp_input\.weight": "input weights of the MLP, gate and value",
    r"blocks\.mlp_output\.weight": "output weights of the MLP",
    r"norms\.(weight|bias)": "normalization, {0}",
    r"initial\.0": "initial hidden state",
    r"initial\.(\d+)": "initial state tensor {0}",
}


def describe_weights(model: AnyModel, kind: str) -> Iterator[str]:
    """Yield what each weight is, in the order of `named_weights`.

    An example is "layer 1, LSTM, input weights, 4 gates".

    Args:
        model: The model.
        kind: Kind of its cells.
    """
    sizes = [layer.hidden_size for layer in model.encoder.recurrence.layers]
    names = [name for name, _ in named_weights(model)]
    side = _DECODER if any(name.startswith(_DECODER) for name in names) else ""
    is_tied = f"{side}embedding.weight" in names and not any(
        name.startswith((f"{side}projection.", "head.")) and name.endswith("weight")
        for name in names
    )
    for full_name, weight in named_weights(model):
        name = full_name.removeprefix(_DECODER)
        decoder = "decoder, " * (name != full_name)
        layer = re.fullmatch(r"(backward_)?recurrence\.(\w+)\.(\d+)\.(.+)", name)
        if layer is None:
            is_shared = is_tied and full_name == f"{side}embedding.weight"
            shared = ", also weights of the projection" * is_shared
            yield decoder + _describe(name, _OTHER_PARTS) + shared
            continue
        backward, part, number, rest = layer.groups()
        place = f"{decoder}{'backward ' if backward else ''}layer {int(number) + 1}"
        if part == "cells":
            gates = len(weight) // sizes[int(number)]
            yield f"{place}, {_KINDS.get(kind, kind)}, {_describe_in_cell(rest, gates)}"
        else:
            yield f"{place}, {_describe(f'{part}.{rest}', _LAYER_PARTS)}"


def part_name(group: str) -> str:
    """Return the name of a part of a network as a reader sees it, the first layer being layer 1.

    Args:
        group: Name in JSON and in metrics.jsonl, in which layers are counted from 0.

    >>> part_name("layer_0"), part_name("backward_layer_1"), part_name("projection")
    ('layer 1', 'backward layer 2', 'projection')
    """
    words = group.replace("_", " ").split()
    if words[-1].isdigit():
        words[-1] = str(int(words[-1]) + 1)
    return " ".join(words)


def _describe_in_cell(name: str, gates: int) -> str:
    count = f", {gates} gates" if gates > 1 and _GATED.match(name) else ""
    return _describe(name, _CELL_PARTS) + count


def _describe(name: str, parts: dict[str, str]) -> str:
    """Return the description of a name; of a cell that charlm does not have, the name itself."""
    for pattern, description in parts.items():
        if match := re.fullmatch(pattern, name):
            return description.format(*map(_in_words, match.groups()))
    return name


def _in_words(part: str) -> str:
    return str(int(part) + 1) if part.isdigit() else _VALUES.get(part, part)
