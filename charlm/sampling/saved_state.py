"""Where a text stands, so that it can go on: kept in memory, or as the bytes of a safetensors file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from charlm.errors import CheckpointError
from charlm.model.language_model import LanguageModel, named_weights
from charlm.model.recurrence import States
from charlm.storage.tensors import read_tensors
from charlm.storage.untrusted import Count, StrictModel, one_line, parse_json

_FORMAT = 1


@dataclass(frozen=True)
class GenerationState:
    """Where a text stands, so that writing can go on from there as if it had never stopped.

    Attributes:
        ids: Read and written so far; the network has not read the last of them yet.
        states: After all ids but the last, of a batch of one.
        seed: Of the random numbers.
        number: Of the sequence.
        drawn: How many random numbers it has used.
        told: How many characters of the text have been shown: the rest of the last token may be still to come.
        ended: Whether <EOS> has ended it.
    """

    ids: list[int]
    states: States
    seed: int
    number: int
    drawn: int
    told: int = 0
    ended: bool = False


def weights_checksum(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights, by name, type, shape and contents."""
    return _checksum(dict(named_weights(model)))


def _checksum(tensors: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> str:
    digest = hashlib.sha256(b"" if facts is None else json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        whole = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {whole.dtype} {tuple(whole.shape)}\n".encode())
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def place_to_bytes(place: GenerationState, weights: str) -> bytes:
    """Return a safetensors file: the states, the ids, and in its metadata all else.

    Args:
        place: To be kept.
        weights: Checksum of the model's weights, which the states belong to.
    """
    tensors = {
        f"state.{layer}.{number}": part.contiguous().clone()
        for layer, state in enumerate(place.states)
        for number, part in enumerate(state)
    }
    facts = {
        "format": _FORMAT,
        "weights": weights,
        "seed": place.seed,
        "number": place.number,
        "drawn": place.drawn,
        "told": place.told,
        "ended": place.ended,
    }
    tensors["ids"] = torch.tensor(place.ids, dtype=torch.int64)
    sealed = facts | {"checksum": _checksum(tensors, facts)}
    return safetensors.torch.save(tensors, {"charlm": json.dumps(sealed)})


def place_from_bytes(data: bytes, model: LanguageModel, name: str) -> GenerationState:
    """Read what `place_to_bytes` returned.

    Args:
        data: The file.
        model: That is to go on; the states go to its device.
        name: Of the file, for the message.

    Raises:
        CheckpointError: It is no such file, damaged, or of another model.
    """
    try:
        tensors = read_tensors(data)
        size = int.from_bytes(data[:8], "little")
        found = parse_json(parse_json(data[8 : 8 + size])["__metadata__"]["charlm"])
        facts = _PlaceFacts.model_validate(found)
        whole = found.pop("checksum", None) in (
            None,
            _checksum(tensors, found),
        )  # Older ones have none.
        ids = tensors.pop("ids")
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{name}: is no state of a text, or is cut short; write one with --state-out"
        ) from None
    if facts.format != _FORMAT:
        raise CheckpointError(
            f"{name}: has format {facts.format}; this charlm reads {_FORMAT}: update it"
        )
    weights = weights_checksum(model)
    if facts.weights != weights:
        belongs = one_line(facts.weights[:12])
        raise CheckpointError(
            f"{name}: is the state of another model (weights {belongs}, these are {weights[:12]}); name the run and "
            "--checkpoint that wrote it"
        )
    states = _states(tensors, model)
    is_known = (
        ids.dtype == torch.int64
        and ids.dim() == 1
        and not bool((ids < 0).any() | (ids >= model.vocabulary_size).any())
    )
    if not whole or states is None or not is_known:
        raise CheckpointError(
            f"{name}: is damaged: its states or ids are not those that were kept; write it again"
        )
    return GenerationState(
        ids.tolist(), states, facts.seed, facts.number, facts.drawn, facts.told, facts.ended
    )


class _PlaceFacts(StrictModel):
    """What the metadata of such a file are like."""

    format: Count
    weights: str
    seed: Count
    number: Count
    drawn: Count
    told: Count
    ended: bool


def _states(tensors: dict[str, Tensor], model: LanguageModel) -> States | None:
    """Return the states that were kept, on the model's device; None unless they are like those that it begins with."""
    initial = model.initial_states(1)
    names = [
        [f"state.{layer}.{number}" for number in range(len(parts))]
        for layer, parts in enumerate(initial)
    ]
    wanted = {
        name: part
        for group, parts in zip(names, initial, strict=True)
        for name, part in zip(group, parts, strict=True)
    }
    if tensors.keys() != wanted.keys():
        return None
    for name, part in wanted.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (part.shape, part.dtype) or not bool(
            found.isfinite().all()
        ):
            return None
    return tuple(tuple(tensors[name].to(wanted[name].device) for name in group) for group in names)
