"""Match the tensors of a state dict with the parts of a language model, by suffix and shape."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from charlm.config.values import checked
from charlm.errors import CharlmError, OptionError
from charlm.storage.untrusted import one_line

CellName = Literal["lstm", "gru", "elman"]
# Letters of the gates in the order of torch: input, forget, candidate, output; reset, update, new.
GATES: dict[CellName, str] = {"lstm": "ifgo", "gru": "rzn", "elman": "h"}
_INPUT_WEIGHTS = re.compile(r"(?P<prefix>.*?)weight_ih(?P<suffix>_l(?P<layer>\d{1,4}))?")
_PARTS = {"weight_ih": "input weights", "bias_ih": "input bias", "bias_hh": "recurrent bias"}
_NONE = "none"
_UNSUPPORTED = {
    "_reverse": "is of a layer that reads backward; only one direction can be imported",
    "weight_hr": "projects a hidden state (proj_size), which charlm has not",
}
# Parts of names that say which of two matrices of the same shape is meant.
_EMBEDDING_NAMES = ("emb", "encoder", "wte", "lookup")
_PROJECTION_NAMES = ("decoder", "proj", "out", "fc", "linear", "head", "dense", "softmax", "logit")


class Layer(NamedTuple):
    """The weights of a layer, in torch's order of gates.

    Attributes:
        input: Input weights, (gates x hidden, input).
        recurrent: Recurrent weights, (gates x hidden, hidden).
        input_bias: Bias beside the input weights, (gates x hidden,).
        recurrent_bias: Bias beside the recurrent weights, (gates x hidden,).
    """

    input: Tensor
    recurrent: Tensor
    input_bias: Tensor
    recurrent_bias: Tensor

    def reordered(self, order: Sequence[int]) -> "Layer":
        """Return the layer whose gates are those at the positions `order` of this one."""
        return Layer(*(_reordered(tensor, order) for tensor in self))


@dataclass(frozen=True)
class Matched:
    """The parts of a language model, and where each tensor went.

    Attributes:
        layers: Layers, the first one first.
        embedding: Embedding, (vocabulary, embedding), or None for one-hot inputs.
        projection: Matrix of the projection, (vocabulary, hidden); None if it is the embedding.
        bias: Bias of the projection, (vocabulary,).
        roles: What each tensor of the file is, by its name.
    """

    layers: list[Layer]
    embedding: Tensor | None
    projection: Tensor | None
    bias: Tensor
    roles: dict[str, str]


@checked
@dataclass(frozen=True)
class MatchOptions:
    """What the user says about a state dict.

    Attributes:
        cell: Kind of the cells.
        gates: Letters of the gates in the order of the file; None for that of torch.
        embedding: Name of the embedding, where several tensors can be it; `none` for one-hot
            inputs.
        projection: Name of the matrix of the projection, likewise.
        layers: Beginnings of the names of the layers, the first layer first, where their order does
            not follow from the names.
    """

    cell: CellName
    gates: str | None = None
    embedding: str | None = None
    projection: str | None = None
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            OptionError: The order of the gates is not one of the cell.
        """
        if self.cell not in GATES:
            raise OptionError("cell", f"must be one of {', '.join(GATES)}", value=self.cell)
        known = GATES[self.cell]
        if self.gates is not None and (self.cell == "elman" or sorted(self.gates) != sorted(known)):
            problem = "an Elman network has no gates; remove it"
            if self.cell != "elman":
                problem = f"must have each of the letters {', '.join(known)} once"
            raise OptionError("gates", problem, value=self.gates)

    @property
    def order(self) -> list[int]:
        """Position in the file of each gate, in the order of torch."""
        found = self.gates or GATES[self.cell]
        return [found.index(letter) for letter in GATES[self.cell]]


def match(tensors: Mapping[str, Tensor], vocabulary_size: int, options: MatchOptions) -> Matched:
    """Return the parts of a language model.

    Args:
        tensors: Tensors of the file by name.
        vocabulary_size: Number of tokens of the model in the file.
        options: What the user says about the file.

    Raises:
        CharlmError: A part is missing, or a tensor belongs to no part.
        OptionError: Several tensors can be a part; the option that names it is missing.
    """
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    roles: dict[str, str] = {}
    layers = [
        _layer(tensors, place, f"layer {number}", len(GATES[options.cell]), roles)
        for number, place in enumerate(_layer_places(tensors, options), 1)
    ]
    _check_chain(layers)
    others = {name: tensors[name] for name in tensors if name not in roles}
    input_size, output_size = layers[0].input.shape[1], layers[-1].recurrent.shape[1]
    matrices = _matrices(others, vocabulary_size, (input_size, output_size), options)
    for part, name in matrices.items():
        roles[name] = f"{roles[name]} and {part}" if name in roles else part
    bias = _bias(others, matrices, vocabulary_size, roles)
    _refuse_others(tensors, roles, vocabulary_size, options.cell)
    embedding = tensors[matrices["embedding"]].float() if "embedding" in matrices else None
    is_tied = matrices.get("embedding") == matrices["projection"] or _is_equal(tensors, matrices)
    return Matched(
        layers=[layer.reordered(options.order) for layer in layers],
        embedding=embedding,
        projection=None if is_tied else tensors[matrices["projection"]].float(),
        bias=bias,
        roles=roles,
    )


def _refuse_others(
    tensors: Mapping[str, Tensor], roles: Mapping[str, str], vocabulary_size: int, cell: CellName
) -> None:
    """Raise CharlmError if a tensor belongs to no part of the model."""
    if unknown := [name for name in tensors if name not in roles]:
        shape = tuple(tensors[unknown[0]].shape)
        raise CharlmError(
            f"{one_line(unknown[0])} of shape {shape} belongs to no part of a language model of "
            f"embedding, {cell} layers and projection over {vocabulary_size} tokens; remove it "
            "from the file, or correct --cell or --tokenizer"
        )


def _check_tensor(name: str, tensor: Tensor) -> None:
    for part, problem in _UNSUPPORTED.items():
        if part in name:
            raise CharlmError(f"{one_line(name)}: {problem}")
    if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
        raise CharlmError(f"{one_line(name)}: has values that are not finite numbers")


class _Place(NamedTuple):
    """What is before and after `weight_ih` in the names of a layer."""

    prefix: str
    suffix: str

    def name(self, part: str) -> str:
        """Return the name of a part of the layer, such as `bias_hh`."""
        return f"{self.prefix}{part}{self.suffix}"


def _layer_places(tensors: Mapping[str, Tensor], options: MatchOptions) -> list[_Place]:
    """Return the places of the layers in the names, the first layer first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in tensors:
        match = _INPUT_WEIGHTS.fullmatch(name)
        if match:
            number = int(match["layer"] or 0)
            found.setdefault(match["prefix"], []).append((number, match["suffix"] or ""))
    if not found:
        raise CharlmError(
            "no tensor has a name that ends like those of a layer of torch, as in weight_ih_l0; "
            "rename the tensors as torch does"
        )
    order = _order_of(list(found), options.layers)
    return [_Place(prefix, suffix) for prefix in order for _, suffix in sorted(found[prefix])]


def _order_of(prefixes: list[str], given: tuple[str, ...]) -> list[str]:
    """Return the prefixes of the layers in order: as given, else by the only number in them."""
    if given:
        named = [name if name in prefixes else f"{name}." for name in given]
        if sorted(named) != sorted(prefixes):
            names = ", ".join(prefix.removesuffix(".") for prefix in prefixes)
            raise OptionError("layers", f"must name all of {one_line(names)}, in order")
        return named
    if len(prefixes) == 1:
        return prefixes
    without = {re.sub(r"\d+", "", prefix) for prefix in prefixes}
    numbers = [re.findall(r"\d+", prefix) for prefix in prefixes]
    if len(without) > 1 or any(len(found) != 1 for found in numbers):
        names = ", ".join(prefix.removesuffix(".") for prefix in prefixes)
        raise OptionError("layers", f"is missing: name the layers in order: {one_line(names)}")
    return sorted(prefixes, key=lambda prefix: int(re.findall(r"\d+", prefix)[0]))


def _layer(
    tensors: Mapping[str, Tensor], place: _Place, role: str, gates: int, roles: dict[str, str]
) -> Layer:
    """Return a layer as it is in the file, and note what its tensors are."""
    recurrent = tensors.get(place.name("weight_hh"))
    if recurrent is None or recurrent.ndim != 2 or len(recurrent) != gates * recurrent.shape[1]:
        shape = None if recurrent is None else tuple(recurrent.shape)
        raise CharlmError(
            f"{one_line(place.name('weight_hh'))}: must have {gates} square blocks, one per gate, "
            f"got shape {shape}; correct --cell"
        )
    rows = len(recurrent)
    roles[place.name("weight_hh")] = f"{role}, recurrent weights"
    parts = []
    for part, words in _PARTS.items():
        name = place.name(part)
        tensor = tensors.get(name)
        if tensor is None and part != "weight_ih":  # Layers can have no biases.
            tensor = torch.zeros(rows)
        elif tensor is None or tensor.ndim != 1 + (part == "weight_ih") or len(tensor) != rows:
            shape = None if tensor is None else tuple(tensor.shape)
            raise CharlmError(f"{one_line(name)}: must have {rows} rows, got shape {shape}")
        else:
            roles[name] = f"{role}, {words}"
        parts.append(tensor.float())
    return Layer(parts[0], recurrent.float(), parts[1], parts[2])


def _check_chain(layers: list[Layer]) -> None:
    for number, (below, layer) in enumerate(pairwise(layers), 2):
        if layer.input.shape[1] != below.recurrent.shape[1]:
            raise CharlmError(
                f"layer {number} reads {layer.input.shape[1]} values, but the layer below has "
                f"{below.recurrent.shape[1]} units; give the order of the layers with --layers"
            )


def _matrices(
    others: Mapping[str, Tensor],
    vocabulary_size: int,
    sizes: tuple[int, int],
    options: MatchOptions,
) -> dict[str, str]:
    """Return the names of `embedding` and `projection`; one-hot inputs have no embedding."""
    readers, writers = (
        [
            name
            for name, tensor in sorted(others.items())
            if tuple(tensor.shape) == (vocabulary_size, size)
        ]
        for size in sizes
    )
    is_one_hot = options.embedding == _NONE or (not readers and sizes[0] == vocabulary_size)
    if is_one_hot and sizes[0] != vocabulary_size:
        raise OptionError(
            "embedding", f"cannot be none: the first layer reads {sizes[0]} values, not one-hot"
        )
    if len(readers) == 1 and set(sizes) == {vocabulary_size} and options.embedding is None:
        problem = "is missing: {} can be a shared matrix, or the projection after one-hot inputs"
        remedy = f"; give its name, or {_NONE}"
        raise OptionError("embedding", problem.replace("{}", one_line(readers[0])) + remedy)
    if readers == writers and len(readers) == 1 and not is_one_hot:
        return {"embedding": readers[0], "projection": readers[0]}
    projection = _choose("projection", writers, options.projection, _PROJECTION_NAMES)
    if projection is None:
        raise _missing("projection", others, (vocabulary_size, sizes[1]))
    if is_one_hot:
        return {"projection": projection}
    embedding = _choose("embedding", readers, options.embedding, _EMBEDDING_NAMES)
    if embedding is None:
        raise _missing("embedding", others, (vocabulary_size, sizes[0]))
    return {"embedding": embedding, "projection": projection}


def _choose(
    part: str, candidates: list[str], given: str | None, known: tuple[str, ...]
) -> str | None:
    """Return the candidate that the user named, the only one, or the only one with a usual name."""
    if given is not None:
        if given not in candidates:
            names = ", ".join(candidates) or "none"
            raise OptionError(part, f"must be one of {one_line(names)}", value=given)
        return given
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    usual = [name for name in candidates if any(word in name.lower() for word in known)]
    if len(usual) != 1:
        names = " or ".join(candidates)
        raise OptionError(part, f"is missing: {one_line(names)} has its shape; name it")
    return usual[0]


def _missing(part: str, others: Mapping[str, Tensor], shape: tuple[int, int]) -> CharlmError:
    found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in others.items()) or "none"
    return CharlmError(
        one_line(
            f"no tensor is the {part}: the tokenizer has {shape[0]} tokens, so it must have the "
            f"shape {shape}, but the other tensors are {found}; give the tokenizer of the model"
        )
    )


def _bias(
    others: Mapping[str, Tensor],
    matrices: Mapping[str, str],
    vocabulary_size: int,
    roles: dict[str, str],
) -> Tensor:
    """Return the bias of the projection; zeros if there is none."""
    candidates = [
        name for name, tensor in others.items() if tuple(tensor.shape) == (vocabulary_size,)
    ]
    beside = matrices["projection"].removesuffix("weight") + "bias"
    name = beside if beside in candidates else None
    if name is None and len(candidates) == 1:
        name = candidates[0]
    if name is None:
        return torch.zeros(vocabulary_size)
    roles[name] = "projection, bias"
    return others[name].float()


def _is_equal(tensors: Mapping[str, Tensor], matrices: Mapping[str, str]) -> bool:
    """Return whether embedding and projection are two copies of one matrix."""
    if "embedding" not in matrices:
        return False
    embedding, projection = tensors[matrices["embedding"]], tensors[matrices["projection"]]
    return embedding.shape == projection.shape and torch.equal(embedding, projection)


def _reordered(tensor: Tensor, order: Sequence[int]) -> Tensor:
    blocks = tensor.chunk(len(order))
    return torch.cat([blocks[position] for position in order])
