"""What a decoder attends to while it writes a target."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from charlm.data.tokenizer import EOS, EOS_TEXT
from charlm.errors import CharlmError, quote
from charlm.sampling.completion import complete_ids, prompt_of, read_sources, with_eos
from charlm.sampling.options import CompletionOptions
from charlm.storage.results import Result
from charlm.storage.tables import format_rows
from charlm.trained_model import TrainedTranslator

_SHOWN = 5  # Source tokens with the largest weights.


@dataclass(frozen=True)
class Attention(Result):
    """The attention weights of a decoded text, from `read_attention`.

        attention = charlm.load_translator("runs/dates").attention("3 May 2021")
        attention.weights[row][column]  # Of source token `column` for target token `row`.

    Attributes:
        source: Tokens of the source.
        target: Tokens that were written, the closing <EOS> included if the text has ended.
        weights: Weights of all source tokens for each target token, (target, source); each row sums
            to 1.
    """

    source: list[str]
    target: list[str]
    weights: list[list[float]]

    def lines(self) -> Iterator[str]:
        """Yield a row for each target token, with the source tokens of the largest weights."""
        rows = []
        for token, weights in zip(self.target, self.weights, strict=True):
            order = sorted(range(len(weights)), key=lambda at: -weights[at])[:_SHOWN]
            sources = ", ".join(f"{quote(self.source[at])} ({weights[at]:.2f})" for at in order)
            rows.append([quote(token), sources])
        yield format_rows(["token", "attends most to (weight)"], rows)


@torch.inference_mode()
def read_attention(
    trained: TrainedTranslator, source: str, options: CompletionOptions | None = None
) -> Attention:
    """Write the target of a source; return what the decoder attended to.

    Args:
        trained: The model.
        source: A source.
        options: How the target is written; by default the most probable token at each step.

    Raises:
        CharlmError: The model has no attention.
        UnsupportedOptionError: The source has unknown characters or words, and that is not allowed.
    """
    model, options = trained.model, options or CompletionOptions()
    if model.attention is None:
        raise CharlmError(
            f"{trained.folder}: the model has no attention (task.attention: none); train one "
            "with task.attention=additive"
        )
    prompt = prompt_of(trained, source, options)
    (written,) = complete_ids(model, [prompt], options)
    read = with_eos(model, [prompt])
    memory = read_sources(model, read[:-1])
    inputs = torch.tensor([prompt[-1], *written], device=read.device)[:, None]
    features, _ = model.decoder.encoder(inputs, memory.states)
    has_ended = len(written) < options.length
    target = [*written, EOS] if has_ended else written
    weights = model.attention_weights(features[: len(target)], memory)[:, 1:, 0]
    decode = trained.tokenizer.decode
    return Attention(
        source=[decode([index]) for index in prompt[:-1]],
        target=[decode([index]) if index != EOS else EOS_TEXT for index in target],
        weights=weights.tolist(),
    )
