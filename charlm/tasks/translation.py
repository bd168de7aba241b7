"""A trained encoder and decoder: the targets that it writes, and what it attends to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from charlm.config.schema import ResolvedConfig
from charlm.data.cards import Part
from charlm.data.tokenizer import EOS, EOS_TEXT
from charlm.errors import CharlmError
from charlm.model.translation_model import TranslationModel
from charlm.runs.files import CheckpointName
from charlm.sampling.completion import complete, complete_ids, prompt_of, read_sources, with_eos
from charlm.sampling.options import CompletionOptions, build_options
from charlm.tasks.attention import Attention
from charlm.tasks.completion import Completions, measure_completion
from charlm.trained_model import TrainedTranslator
from charlm.trained_model import load_translator as load_trained


@dataclass(frozen=True)
class Translator:
    """A trained encoder and decoder in its run folder.

    Attributes:
        trained: Model, tokenizer, configuration and origin.
    """

    trained: TrainedTranslator

    @property
    def model(self) -> TranslationModel:
        """The model, in evaluation mode."""
        return self.trained.model

    @property
    def config(self) -> ResolvedConfig:
        """The resolved configuration."""
        return self.trained.config

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.trained.folder

    @property
    def corpus(self) -> dict[str, Any]:
        """Facts about the corpus."""
        return self.trained.origin.corpus

    @property
    def state(self) -> dict[str, Any]:
        """Facts about the checkpoint, such as `step`."""
        return self.trained.origin.state

    def complete(self, sources: str | Sequence[str], **options: Any) -> list[str]:
        """Return the target of each source; options as in `CompletionOptions`."""
        given = [sources] if isinstance(sources, str) else sources
        return complete(self.trained, given, build_options(CompletionOptions, options))

    def completions(self, split: Part = "valid", **options: Any) -> Completions:
        """Write the targets of a part of the corpus, and compare with the right ones.

        Options as in `CompletionOptions`.
        """
        return measure_completion(self.trained, split, build_options(CompletionOptions, options))

    def attention(self, source: str, **options: Any) -> Attention:
        """Write the target of a source; return what the decoder attended to.

        Options as in `CompletionOptions`.

        Raises:
            CharlmError: The model has no attention.
        """
        return read_attention(self, source, build_options(CompletionOptions, options))


def load_translator(
    folder: str | Path, which: CheckpointName = "best", device: str = "auto"
) -> Translator:
    """Load a trained encoder and decoder. Nothing in the run folder is executed.

    Args:
        folder: Run folder.
        which: `best` by validation loss, or `last`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        CheckpointError: The folder is no run folder, or is damaged.
        CharlmError: The model has another task.
    """
    return Translator(load_trained(Path(folder), which, device))


@torch.inference_mode()
def read_attention(
    translator: Translator, source: str, options: CompletionOptions | None = None
) -> Attention:
    """Write the target of a source; return what the decoder attended to.

    Args:
        translator: The model.
        source: A source.
        options: How the target is written; by default the most probable token at each step.

    Raises:
        CharlmError: The model has no attention.
        UnsupportedOptionError: The source has unknown characters or words, and that is not allowed.
    """
    model, options = translator.model, options or CompletionOptions()
    if model.attention is None:
        raise CharlmError(
            f"{translator.folder}: the model has no attention (task.attention: none); train one "
            "with task.attention=additive"
        )
    prompt = prompt_of(translator.trained, source, options)
    (written,) = complete_ids(model, [prompt], options)
    read = with_eos(model, [prompt])
    memory = read_sources(model, read[:-1])
    inputs = torch.tensor([prompt[-1], *written], device=read.device)[:, None]
    features, _ = model.decoder.encoder(inputs, memory.states)
    has_ended = len(written) < options.length
    target = [*written, EOS] if has_ended else written
    weights = model.attention_weights(features[: len(target)], memory)[:, 1:, 0]
    decode = translator.trained.tokenizer.decode
    return Attention(
        source=[decode([index]) for index in prompt[:-1]],
        target=[decode([index]) if index != EOS else EOS_TEXT for index in target],
        weights=weights.tolist(),
    )
