"""A trained model in its run, and the texts that it can be shown."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from charlm.config.schema import ResolvedConfig
from charlm.data.cards import Part, cache_folder
from charlm.data.corpus import Text, open_corpus, read_text
from charlm.data.tokenizer import Tokenizer
from charlm.data.tokens import Tokens, encode_text
from charlm.errors import CharlmError, CheckpointError, TokenizerError
from charlm.model.language_model import LanguageModel
from charlm.runs.checkpoint import Which


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, with the tokenizer and the configuration that it belongs to.

    Attributes:
        folder: The run folder.
        which: `best` or `last`.
        config: Resolved.
        tokenizer: Learnt from the run's training text.
        model: In evaluation mode, on `device`.
        corpus: Facts on the corpus: its title, its parts, how often each token occurs in the training text.
        state: Facts on the checkpoint, such as `step`.
        device: Where the model is.
    """

    folder: Path
    which: Which
    config: ResolvedConfig
    tokenizer: Tokenizer
    model: LanguageModel
    corpus: dict[str, Any]
    state: dict[str, Any]
    device: torch.device

    @property
    def writes_records(self) -> bool:
        """Whether a text that it writes ends with <EOS>."""
        return self.config.corpus.mode == "records"

    def prompt_ids(
        self, prompt: str, *, allow_unknown: bool, option: str = "--prompt"
    ) -> list[int]:
        """Return the ids of a prompt, which came as `option`.

        Raises:
            TokenizerError: It has characters or words that the model never saw, and that is not allowed.
        """
        unknown = self.tokenizer.find_unknown(prompt)
        if unknown and not allow_unknown:
            kind = "word" if self.tokenizer.section.level == "word" else "character"
            listed = ", ".join(f"{piece!r}" for piece in unknown[:8]) + (
                ", ..." if len(unknown) > 8 else ""
            )
            raise TokenizerError(
                f"{option}: the model never saw the {kind}{'s' * (len(unknown) > 1)} {listed}; leave out what it does "
                "not know, or pass --allow-unknown to have it read as <UNK>"
            )
        ids: list[int] = self.tokenizer.encode(prompt).tolist()
        return ids

    def _check_one_way(self) -> None:
        if self.model.direction == "both":
            raise CharlmError(
                f"{self.folder}: the model reads both ways and cannot write from one end to the other; have it fill a "
                'gap: charlm sample --fill "The ____ were full."'
            )

    def _own_texts(self) -> dict[Part, Text]:
        corpus = open_corpus(self.config)
        for part, text in corpus.parts.items():
            if text.fingerprint != self.corpus["fingerprints"].get(part):
                raise CheckpointError(
                    f"{self.folder}: its {part} text has changed since it was trained: "
                    f"{', '.join(self.config.corpus.text)}; put the old text back, or name a text to score"
                )
        return corpus.parts

    def _encoded(self, text: Text, cache: Path | None = None) -> Tokens:
        mode = self.config.corpus.mode
        return encode_text(
            text, self.tokenizer, mode=mode, cache=cache or cache_folder() / "tokens"
        )

    def _encoded_string(self, text: str, config: ResolvedConfig) -> Tokens:
        """Return the tokens of a string, read as a UTF-8 file of the corpus."""
        corpus = config.corpus.model_copy(update={"encoding": "utf-8"})
        config = config.model_copy(update={"corpus": corpus})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.txt"
            path.write_bytes(text.encode())
            source = read_text([str(path)], config)
            return self._encoded(source, Path(folder))

    def _text_to_score(
        self, text: str | None, paths: Sequence[str | Path], split: Part
    ) -> tuple[Tokens, str]:
        if text is not None:
            return self._encoded_string(text, self.config), "a string"
        if paths:
            names = [str(path) for path in paths]
            return self._encoded(read_text(names, self.config)), ", ".join(names)
        parts = self._own_texts()
        if split not in parts:
            raise CheckpointError(
                f"{self.folder}: its corpus has no {split} part, only {', '.join(parts)}; name a text"
            )
        return self._encoded(parts[split]), split

    def _bytes_of(self, text: str | None, paths: Sequence[str] | None, split: Part) -> bytes:
        """Return a text to score as it stands in its file; arguments as for `_text_to_score`."""
        if text is not None:
            return text.encode()
        source = read_text(list(paths), self.config) if paths else self._own_texts()[split]
        separator = source.separator.encode()
        return b"".join(block + (separator if ends else b"") for block, ends in source.blocks())
