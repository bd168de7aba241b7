"""Where a text stands, so that it can go on: kept in memory, or as the bytes of a safetensors file."""

import hashlib
import json
from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from charlm.errors import CheckpointError
from charlm.model.recurrence import States

_FORMAT = 1


@dataclass(frozen=True)
class Place:
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
    digest = hashlib.sha256()
    for name, tensor in sorted(model.named_parameters()):
        whole = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {whole.dtype} {tuple(whole.shape)}\n".encode())
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def place_to_bytes(place: Place, weights: str) -> bytes:
    """Return a safetensors file: the states, the ids, and in its metadata all else.

    Args:
        place: To be kept.
        weights: Checksum of the model's weights, which the states belong to.
    """
    tensors = {f"state.{layer}.{number}": part.contiguous().clone()
               for layer, state in enumerate(place.states) for number, part in enumerate(state)}  # fmt: skip
    facts = {"format": _FORMAT, "weights": weights, "seed": place.seed, "number": place.number, "drawn": place.drawn,
             "told": place.told, "ended": place.ended}  # fmt: skip
    ids = torch.tensor(place.ids, dtype=torch.int64)
    return safetensors.torch.save(tensors | {"ids": ids}, {"charlm": json.dumps(facts)})


def place_from_bytes(data: bytes, weights: str, name: str, device: torch.device) -> Place:
    """Read what `place_to_bytes` returned.

    Args:
        data: The file.
        weights: Checksum of the weights of the model that is to go on.
        name: Of the file, for the message.
        device: Where the states go.

    Raises:
        CheckpointError: It is no such file, damaged, or of another model.
    """
    try:
        tensors = safetensors.torch.load(data)
        size = int.from_bytes(data[:8], "little")
        facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["charlm"])
        known, belongs = facts.pop("format"), facts.pop("weights")
        ids = tensors.pop("ids").tolist()
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{name}: is no state of a text, or is cut short; write one with --state-out") from None
    if known != _FORMAT:
        raise CheckpointError(f"{name}: has format {known}; this charlm reads {_FORMAT}: update it")
    if belongs != weights:
        raise CheckpointError(
            f"{name}: is the state of another model (weights {belongs[:12]}, these are {weights[:12]}); name the run "
            "and --checkpoint that wrote it"
        )
    return Place(ids, _states(tensors, device), **facts)


def _states(tensors: dict[str, Tensor], device: torch.device) -> States:
    layers: dict[int, dict[int, Tensor]] = {}
    for key, tensor in tensors.items():
        _, layer, number = key.split(".")
        layers.setdefault(int(layer), {})[int(number)] = tensor.to(device)
    return tuple(tuple(parts[number] for number in sorted(parts)) for _, parts in sorted(layers.items()))
