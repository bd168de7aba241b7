"""The targets that a model writes for sources, greedily or by beam search: `complete`, `translate`.

A language model reads a source and a tab, and writes until <EOS>. An encoder reads the source, and
the decoder writes after the tab. Sources of one length are read side by side, so that no padding is
read.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from charlm.data.pairs import SEPARATOR
from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError, UnsupportedOptionError
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States
from charlm.model.translation_model import Source, TokenModel, TranslationModel
from charlm.sampling.beam_search import BeamOptions, Start, search_from
from charlm.sampling.drawing import without_unknown
from charlm.sampling.options import DEFAULT_LENGTH_PENALTY, CompletionOptions
from charlm.sampling.prompts import read_prompt
from charlm.sampling.stepper import Stepper
from charlm.sampling.threads import num_weights, threads_for_step
from charlm.trained_model import Trained

_MAX_BATCH = 256


def complete(
    trained: Trained[Any], sources: Sequence[str], options: CompletionOptions
) -> list[str]:
    """Return the target of each source.

    Raises:
        UnsupportedOptionError: The model was not trained to complete sources, or a source has
            unknown characters or words, and that is not allowed.
    """
    try:
        require_completion(trained)
    except CharlmError as error:
        raise UnsupportedOptionError("source", str(error)) from None
    prompts = [prompt_of(trained, source, options) for source in sources]
    written = complete_ids(trained.model, prompts, options)
    return [trained.tokenizer.decode(ids) for ids in written]


def require_completion(trained: Trained[Any]) -> None:
    """Raise CharlmError if a model was not trained to complete sources."""
    if not trained.config.task.writes_targets:
        raise CharlmError(
            f"{trained.folder}: is a language model, which was not trained on pairs; train a model "
            "with charlm train PAIRS --task complete, or --task translate, or use this one with "
            "charlm sample --prompt and charlm eval perplexity"
        )


def prompt_of(trained: Trained[Any], source: str, options: CompletionOptions) -> list[int]:
    """Return the ids of a source with its tab.

    Raises:
        UnsupportedOptionError: The source has unknown characters or words, and that is not allowed.
    """
    prompt = source.replace(SEPARATOR, " ") + SEPARATOR
    allow_unknown = options.allow_unknown
    return read_prompt(trained, prompt, allow_unknown=allow_unknown, option="source").ids


def complete_ids(
    model: TokenModel, prompts: Sequence[Sequence[int]], options: CompletionOptions
) -> list[list[int]]:
    """Return the ids that a model writes after each prompt, without <EOS>.

    Args:
        model: Model in evaluation mode.
        prompts: Ids of the sources, each with its tab.
        options: How targets are written.
    """
    read = _decoder(model) if isinstance(model, TranslationModel) else _reader(model)
    if options.beams > 1:
        return [_search(read([prompt]), options) for prompt in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    for numbers in _batches_of_one_length(prompts):
        start = read([prompts[number] for number in numbers])
        with threads_for_step(len(numbers) * start.num_weights):
            texts = _write(start, options.length)
        for number, ids in zip(numbers, texts, strict=True):
            written[number] = ids
    return written


def _batches_of_one_length(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the numbers of prompts of one length, at most `_MAX_BATCH` at a time."""

    def length(number: int) -> int:
        return len(prompts[number])

    for _, group in groupby(sorted(range(len(prompts)), key=length), key=length):
        numbers = list(group)
        for first in range(0, len(numbers), _MAX_BATCH):
            yield numbers[first : first + _MAX_BATCH]


# Prompts of one length → where their targets begin.
_Read = Callable[[Sequence[Sequence[int]]], Start]


def _reader(model: LanguageModel) -> _Read:
    """Return a function that reads prompts with a language model."""
    stepper = Stepper(model)

    @torch.inference_mode()
    def read(prompts: Sequence[Sequence[int]]) -> Start:
        ids = with_eos(model, prompts)
        _, states = model.encoder(ids[:-1], model.initial_states(len(prompts)))
        return Start(ids[-1], states, stepper, num_weights(model))

    return read


def _decoder(model: TranslationModel) -> _Read:
    """Return a function that reads sources with an encoder, for a decoder to write the targets."""
    stepper = Stepper(model.decoder)

    @torch.inference_mode()
    def read(prompts: Sequence[Sequence[int]]) -> Start:
        ids = with_eos(model, prompts)
        source = read_sources(model, ids[:-1])

        def step(ids: Tensor, states: States) -> tuple[Tensor, States]:
            features, states = stepper.advance(ids, states)
            return stepper.project(model.attend(features[None], source)[0]), states

        return Start(ids[-1], source.states, step, num_weights(model.decoder))

    return read


def with_eos(model: TokenModel, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return <EOS> and the ids of prompts of one length, (time, batch)."""
    device = next(model.parameters()).device
    return torch.tensor([[EOS, *prompt] for prompt in prompts], device=device).T


def read_sources(model: TranslationModel, ids: Tensor) -> Source:
    """Read sources of one length with an encoder; ids as from `with_eos`, without the tab."""
    lengths = torch.full((ids.shape[1],), len(ids), device=ids.device)
    return model.read_source(ids, lengths)


@torch.inference_mode()
def _write(start: Start, length: int) -> list[list[int]]:
    """Return the most probable ids of each text, token by token."""
    ids, states, step, _ = start
    columns: list[Tensor] = []
    has_ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    while len(columns) < length and not has_ended.all():
        logits, states = step(ids, states)
        ids = without_unknown(logits).argmax(dim=-1)
        columns.append(ids)
        has_ended |= ids == EOS
    rows = torch.stack(columns, dim=1).tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


def _search(start: Start, options: CompletionOptions) -> list[int]:
    """Return the most probable ids that a beam search finds."""
    beams = BeamOptions(
        beams=options.beams, length=options.length, length_penalty=DEFAULT_LENGTH_PENALTY
    )
    best, *_ = search_from(start, beams, is_end=lambda ids: ids[-1] == EOS)
    return best.ids[:-1] if best.ended else best.ids
