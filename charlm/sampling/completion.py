"""The targets that a model of the task `complete` writes for sources: greedily or by beam search.

The model reads a source and a tab, and writes until <EOS>. Sources of one length are read side by
side, so that no padding is read.
"""

from collections.abc import Sequence

import torch

from charlm.data.pairs import SEPARATOR
from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError, UnsupportedOptionError
from charlm.model.language_model import LanguageModel
from charlm.sampling.beam_search import BeamOptions, beam_search
from charlm.sampling.drawing import without_unknown
from charlm.sampling.options import CompletionOptions
from charlm.sampling.prompts import read_prompt
from charlm.sampling.stepper import Stepper
from charlm.trained_model import TrainedModel

_MAX_BATCH = 256
_LENGTH_PENALTY = 0.6


def complete(
    trained: TrainedModel, sources: Sequence[str], options: CompletionOptions
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
    prompts = [_prompt(trained, source, options) for source in sources]
    written = complete_ids(trained.model, prompts, options)
    return [trained.tokenizer.decode(ids) for ids in written]


def require_completion(trained: TrainedModel) -> None:
    """Raise CharlmError if a model was not trained to complete sources."""
    if trained.config.task.kind != "complete":
        raise CharlmError(
            f"{trained.folder}: the model has not learned targets of sources; train one with "
            "charlm train PAIRS --task complete, or write a text with charlm sample --prompt"
        )


def _prompt(trained: TrainedModel, source: str, options: CompletionOptions) -> list[int]:
    prompt = source.replace(SEPARATOR, " ") + SEPARATOR
    allow_unknown = options.allow_unknown
    return read_prompt(trained, prompt, allow_unknown=allow_unknown, option="source").ids


def complete_ids(
    model: LanguageModel, prompts: Sequence[Sequence[int]], options: CompletionOptions
) -> list[list[int]]:
    """Return the ids that a model writes after each prompt, without <EOS>.

    Args:
        model: Model in evaluation mode.
        prompts: Ids of the sources, each with its tab.
        options: How targets are written.
    """
    if options.beams > 1:
        return [_search(model, prompt, options) for prompt in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    stepper = Stepper(model)
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    batch: list[int] = []
    for number in [*by_length, None]:
        is_full = len(batch) == _MAX_BATCH
        if batch and (number is None or is_full or len(prompts[number]) != len(prompts[batch[0]])):
            rows = _write(model, stepper, [prompts[row] for row in batch], options.length)
            for row, ids in zip(batch, rows, strict=True):
                written[row] = ids
            batch = []
        if number is not None:
            batch.append(number)
    return written


@torch.inference_mode()
def _write(
    model: LanguageModel, stepper: Stepper, prompts: Sequence[Sequence[int]], length: int
) -> list[list[int]]:
    """Return the most probable ids after prompts of one length, token by token."""
    device = next(model.parameters()).device
    read = torch.tensor([[EOS, *prompt] for prompt in prompts], device=device).T
    _, states = model.encoder(read[:-1], model.initial_states(len(prompts)))
    ids = read[-1]
    columns: list[torch.Tensor] = []
    has_ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    while len(columns) < length and not has_ended.all():
        logits, states = stepper(ids, states)
        ids = without_unknown(logits).argmax(dim=-1)
        columns.append(ids)
        has_ended |= ids == EOS
    rows = torch.stack(columns, dim=1).tolist()
    return [row[: row.index(EOS)] if EOS in row else row for row in rows]


def _search(model: LanguageModel, prompt: Sequence[int], options: CompletionOptions) -> list[int]:
    """Return the most probable ids that a beam search finds."""
    beams = BeamOptions(beams=options.beams, length=options.length, length_penalty=_LENGTH_PENALTY)
    best, *_ = beam_search(model, prompt, beams, is_end=lambda ids: ids[-1] == EOS)
    return best.ids[:-1] if best.ended else best.ids
