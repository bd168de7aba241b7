"""The state of a text, so that it can be continued: in memory, or as a safetensors file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor

from charlm.data.tokenizer import Decoder, Tokenizer
from charlm.errors import CheckpointError
from charlm.model.language_model import LanguageModel, weights_checksum
from charlm.model.recurrence import States
from charlm.storage.tensors import read_tensors, tensors_checksum
from charlm.storage.untrusted import Count, StrictModel, one_line, parse_json

_FORMAT = 1


@dataclass(frozen=True)
class GenerationState:
    """The state of a text; generation from it continues as if it had never stopped.

    Attributes:
        ids: Ids read and written so far; the model has not read the last one yet.
        states: States of the model after all ids but the last, of a batch of one.
        seed: Seed of the random numbers.
        number: Number of the sequence.
        num_drawn: Number of random numbers that the sequence has used.
        num_shown: Number of characters of the text that were shown; more of the last token may
            still have to be shown.
        ended: Whether <EOS> has ended the text.
    """

    ids: list[int]
    states: States
    seed: int
    number: int
    num_drawn: int
    num_shown: int = 0
    ended: bool = False


def shorten(state: GenerationState, tokenizer: Tokenizer, max_ids: int) -> GenerationState:
    """Return a state with at most `max_ids` ids, so that continuing it takes constant time.

    The continuation is the same, except that filters and constraints see the last ids only.
    """
    if len(state.ids) <= max_ids:
        return state
    ids = state.ids[-max_ids:]
    num_hidden = _num_characters(state.ids, tokenizer) - state.num_shown
    return replace(state, ids=ids, num_shown=_num_characters(ids, tokenizer) - num_hidden)


def fits(state: GenerationState, model: LanguageModel) -> bool:
    """Return whether the states of a text have the shapes of a model's, and its ids are known."""
    shapes, expected = (
        {name: part.shape for name, part in _named(states).items()}
        for states in (state.states, model.initial_states(1))
    )
    return shapes == expected and all(0 <= token < model.vocabulary_size for token in state.ids)


def _num_characters(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """Return the number of complete characters of a text."""
    return sum(map(len, map(Decoder(tokenizer).feed, ids)))


class _Metadata(StrictModel):
    """The metadata of a file; `told` and `drawn` are the names in the file."""

    format: Count
    weights: str
    seed: Count
    number: Count
    num_drawn: Count = Field(alias="drawn")
    num_shown: Count = Field(alias="told")
    ended: bool


def state_to_bytes(state: GenerationState, model: LanguageModel) -> bytes:
    """Return a safetensors file with the states and ids as tensors and the rest as metadata.

    Args:
        state: State to save.
        model: Model that the state belongs to.
    """
    tensors = {name: part.contiguous().clone() for name, part in _named(state.states).items()}
    tensors["ids"] = torch.tensor(state.ids, dtype=torch.int64)
    metadata = {
        "format": _FORMAT,
        "weights": weights_checksum(model),
        "seed": state.seed,
        "number": state.number,
        "drawn": state.num_drawn,
        "told": state.num_shown,
        "ended": state.ended,
    }
    checksum = {"checksum": tensors_checksum(tensors, metadata)}
    return safetensors.torch.save(tensors, {"charlm": json.dumps(metadata | checksum)})


def state_from_bytes(data: bytes, model: LanguageModel, name: str) -> GenerationState:
    """Return the state in a file that `state_to_bytes` made.

    Args:
        data: Contents of the file.
        model: Model that is to continue the text; the states are put on its device.
        name: Name of the file, for error messages.

    Raises:
        CheckpointError: The file is no saved state, is damaged, or belongs to another model.
    """
    try:
        tensors = read_tensors(data)
        metadata = _read_metadata(data)
        facts = _Metadata.model_validate(metadata)
        checksum = metadata.pop("checksum", None)  # Absent in files of early versions.
        is_intact = checksum in (None, tensors_checksum(tensors, metadata))
        ids = tensors.pop("ids")
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{name}: is no saved state of a text, or is truncated; write one with --state-out"
        ) from None
    _check_belongs(facts, model, name)
    states = _states(tensors, model)
    if not is_intact or states is None or not _are_ids(ids, model.vocabulary_size):
        raise CheckpointError(
            f"{name}: is damaged: its states or ids are not those that were saved; write it again"
        )
    return GenerationState(
        ids=ids.tolist(),
        states=states,
        seed=facts.seed,
        number=facts.number,
        num_drawn=facts.num_drawn,
        num_shown=facts.num_shown,
        ended=facts.ended,
    )


def _read_metadata(data: bytes) -> dict[str, Any]:
    """Return what the header of a safetensors file holds for us.

    Raises:
        ValueError, KeyError, TypeError: There is no such header, or it holds something else.
    """
    size = int.from_bytes(data[:8], "little")
    metadata = parse_json(parse_json(data[8 : 8 + size])["__metadata__"]["charlm"])
    if not isinstance(metadata, dict):
        raise TypeError("the metadata is no object")
    return metadata


def _check_belongs(facts: _Metadata, model: LanguageModel, name: str) -> None:
    if facts.format != _FORMAT:
        raise CheckpointError(
            f"{name}: has format {facts.format}, but this version of charlm reads format "
            f"{_FORMAT}; update charlm"
        )
    weights = weights_checksum(model)
    if facts.weights != weights:
        raise CheckpointError(
            f"{name}: is the state of another model (weights {one_line(facts.weights[:12])}, but "
            f"this model has {weights[:12]}); name the run and the --checkpoint that wrote it"
        )


def _are_ids(ids: Tensor, vocabulary_size: int) -> bool:
    if ids.dtype != torch.int64 or ids.dim() != 1:
        return False
    return not bool((ids < 0).any() | (ids >= vocabulary_size).any())


def _states(tensors: Mapping[str, Tensor], model: LanguageModel) -> States | None:
    """Return the states of a file on the model's device.

    None if they do not have the names, shapes and types of the model's states, or are not finite.
    """
    initial = model.initial_states(1)
    expected = _named(initial)
    if tensors.keys() != expected.keys():
        return None
    for name, part in expected.items():
        tensor = tensors[name]
        if (tensor.shape, tensor.dtype) != (part.shape, part.dtype):
            return None
        if not bool(tensor.isfinite().all()):
            return None
    parts = iter([tensors[name].to(part.device) for name, part in expected.items()])
    return tuple(tuple(next(parts) for _ in state) for state in initial)


def _named(states: States) -> dict[str, Tensor]:
    """Return the tensors of states by their names in a file."""
    return {
        f"state.{layer}.{index}": part
        for layer, parts in enumerate(states)
        for index, part in enumerate(parts)
    }
