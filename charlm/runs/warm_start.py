"""Training that starts from the weights of another run, its ancestor (`charlm train --from`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from charlm.config.model import Model as ModelSection
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.section import Section
from charlm.data.corpus import Text, open_corpus
from charlm.data.growth import grow, relatives
from charlm.data.tokenizer import UNK, Tokenizer
from charlm.data.vocabulary import decode_blocks
from charlm.errors import CharlmError, CheckpointError, ConfigError, counted
from charlm.model.growth import NewTokens, grown_weights
from charlm.runs.checkpoint import load_run_weights
from charlm.runs.files import CheckpointName
from charlm.runs.folder import load_run
from charlm.storage.tensors import Tensors, tensors_checksum

Vocabulary = Literal["grow", "keep"]
# Settings of the network that may differ from the ancestor's: its weights do not depend on them.
_FREE_MODEL_FIELDS = {
    "word_dropout",
    "ngram_dropout",
    "embedding_dropout",
    "dropout",
    "output_dropout",
    "dropout_mask",
    "weight_dropout",
}
# Settings of the projection, which a model of labels does not have.
_PROJECTION_FIELDS = ("tied", "mixture", "adaptive_cutoffs")
_FREE_TOKENIZER_FIELDS = {"eos"}
_SHOWN_TOKENS = 10


@dataclass(frozen=True)
class Ancestor:
    """The run whose weights a training starts from.

    Attributes:
        folder: Run folder.
        config: Its resolved configuration.
        tokenizer: Its tokenizer.
        corpus: Facts about its corpus.
        weights: Its weights, by their names in files.
        loss_nats: Its validation loss in nats per token; None if it was not measured.
        vocabulary: `grow`: unknown tokens of the new text are added; `keep`: they are <UNK>.
    """

    folder: Path
    config: ResolvedConfig
    tokenizer: Tokenizer
    corpus: dict[str, Any]
    weights: Tensors
    loss_nats: float | None
    vocabulary: Vocabulary = "grow"

    def tokenizer_for(self, text: Text) -> Tokenizer:
        """Return the tokenizer for a new training text."""
        if self.vocabulary == "keep":
            return self.tokenizer
        return grow(self.tokenizer, decode_blocks(text.blocks()))

    def weights_for(self, tokenizer: Tokenizer, counts: np.typing.NDArray[np.int64]) -> Tensors:
        """Return the weights for a grown tokenizer.

        Args:
            tokenizer: Tokenizer from `tokenizer_for`.
            counts: How often each token occurs in the new training text, (vocabulary,).
        """
        num_old = self.tokenizer.vocabulary_size
        if tokenizer.vocabulary_size == num_old:
            return self.weights
        # A token that does not occur counts as one occurrence, so that its logarithm is finite.
        old_counts = np.maximum(self.corpus["train_token_counts"], 1)
        new = NewTokens(
            relatives=relatives(tokenizer, num_old),
            frequencies=torch.tensor(np.maximum(counts[num_old:], 1) / max(counts.sum(), 1)),
            old_frequencies=torch.tensor(old_counts / old_counts.sum()),
        )
        return grown_weights(self.weights, self.config.model, new)

    def can_be_replayed(self) -> bool:
        """Return whether the ancestor's text is at hand, and can be mixed into a training."""
        if self.config.model.direction != "forward" or self.config.task.has_pairs:
            return False
        try:
            corpus = open_corpus(self.config)
        except CharlmError:
            return False
        fingerprints: dict[str, str] = self.corpus["fingerprints"]
        return corpus.parts["train"].fingerprint == fingerprints.get("train")

    def facts(self) -> dict[str, Any]:
        """Return what corpus.json records about the ancestor."""
        return {
            "name": self.folder.absolute().name,
            "weights": tensors_checksum(dict(self.weights)),
            "loss_nats": self.loss_nats,
            "mode": self.config.corpus.mode,
            "corpus": self.config.corpus.model_dump(mode="json"),
            "fingerprints": self.corpus["fingerprints"],
        }


def open_ancestor(folder: Path, vocabulary: Vocabulary = "grow") -> Ancestor:
    """Read the run that a training is to start from: its best checkpoint, else its last one.

    Raises:
        CheckpointError: The folder is no run folder, or is damaged.
    """
    run = load_run(folder)
    if run.head is not None:
        raise CheckpointError(
            f"{folder}: is a model of task {run.config.task.kind}; start from a language model"
        )
    which: CheckpointName = "best" if (folder / "best" / "state.json").is_file() else "last"
    use_last = f"to start from it, remove {folder / 'best'}"
    saved = load_run_weights(run, folder, which, use_last=use_last)
    return Ancestor(
        folder=folder,
        config=run.config,
        tokenizer=run.tokenizer,
        corpus=run.corpus,
        weights=saved.weights,
        loss_nats=saved.state["best_loss_nats"] if which == "best" else None,
        vocabulary=vocabulary,
    )


def inherit(config: Config, ancestor: Ancestor) -> Config:
    """Return a configuration with the network and the tokenizer of an ancestor.

    Raises:
        ConfigError: The configuration sets a field to another value than the ancestor has.
    """
    old = ancestor.config
    free = _FREE_MODEL_FIELDS
    if "both" in config.task.directions and config.task.has_pairs:
        free = free | {"direction"}
    if config.task.has_labels:
        defaults = ModelSection.model_validate({})
        reset = {field: getattr(defaults, field) for field in _PROJECTION_FIELDS}
        free = free | {*_PROJECTION_FIELDS}
        old = old.model_copy(update={"model": old.model.model_copy(update=reset)})
    model = _inherited("model", config.model, old.model, free, ancestor.folder)
    tokenizer = _inherited(
        "tokenizer", config.tokenizer, old.tokenizer, _FREE_TOKENIZER_FIELDS, ancestor.folder
    )
    return config.model_copy(update={"model": model, "tokenizer": tokenizer})


def _inherited(name: str, given: Section, old: Section, free: set[str], folder: Path) -> Section:
    """Return a section of the ancestor with the free fields that were given."""
    for field in sorted(given.model_fields_set - free):
        wanted, present = getattr(given, field), getattr(old, field)
        if wanted != present and _meaning(field, given) != _meaning(field, old):
            raise ConfigError(
                f"{name}.{field}: is {_shown(present)} in {folder}, whose weights are used, but "
                f"{_shown(wanted)} is set; remove the setting, or train without --from"
            )
    kept = {field: getattr(given, field) for field in given.model_fields_set & free}
    return type(old).model_validate(old.model_dump() | kept)


def _meaning(field: str, section: Section) -> object:
    """Return the value of a field; for a size or number of layers, the size of each layer."""
    if isinstance(section, ModelSection) and field in ("hidden_size", "num_layers"):
        return section.hidden_sizes
    return getattr(section, field)


def _shown(value: object) -> str:
    if isinstance(value, Section):
        value = {field: getattr(value, field) for field in value.fields_shown()}
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)


def growth_line(
    ancestor: Ancestor, tokenizer: Tokenizer, counts: np.typing.NDArray[np.int64]
) -> str:
    """Return a line about the tokens that a new text shares with its ancestor.

    Args:
        ancestor: The ancestor.
        tokenizer: The grown tokenizer.
        counts: How often each token occurs in the new training text, (vocabulary,).
    """
    num_old = ancestor.tokenizer.vocabulary_size
    occurs = counts[:num_old] > 0
    occurs[:2] = True  # <EOS> and <UNK> are in every vocabulary.
    added = tokenizer.token_bytes[num_old:]
    shown = " ".join(token.decode(errors="backslashreplace") for token in added[:_SHOWN_TOKENS])
    more = " ..." if len(added) > _SHOWN_TOKENS else ""
    line = (
        f"weights of {ancestor.folder}: {occurs.sum():,} tokens kept, {len(added):,} added"
        + (f" ({shown!r}{more})" if added else "")
        + f", {(~occurs).sum():,} not in the new text"
    )
    unknown = int(counts[UNK])
    return line + (
        f"; {counted(unknown, 'token')} of the new text read as <UNK>" if unknown else ""
    )
