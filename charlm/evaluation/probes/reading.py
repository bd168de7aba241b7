"""The text that a probe reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from charlm.data.restarts import eos_ends
from charlm.data.tokenizer import EOS, Decoder, Ids, Tokenizer
from charlm.data.windows.scoring import WARM_UP
from charlm.errors import OptionError
from charlm.evaluation.static_model import Integers, require_tokens
from charlm.model_texts import text_to_score
from charlm.trained_model import TrainedModel

if TYPE_CHECKING:
    from charlm.data.cards import Part


_STREAMS = 16


class TextToRead(NamedTuple):
    """A text that a probe reads.

    Attributes:
        ids: Its tokens, (tokens,), at least one.
        name: Origin of the text, for messages and settings.
        is_cut: Whether the text has more tokens.
    """

    ids: Integers
    name: str
    is_cut: bool


def read_beginning(
    trained: TrainedModel,
    text: str | None,
    paths: str | Path | Sequence[str | Path],
    split: "Part",
    tokens: int | None,
) -> TextToRead:
    """Return the beginning of a string, else of files, else of a part of the model's own corpus.

    Args:
        trained: The model that is to read the text.
        text: A string, or None.
        paths: Files, folders or names of corpora.
        split: Part of the model's own corpus, used if there are neither string nor paths.
        tokens: Largest number of tokens; None means all. In records mode, a record that does not
            fit is left out, and the first record is cut if it does not fit.

    Raises:
        CharlmError: The text cannot be read or has no token.
        OptionError: `tokens` is below 1.
    """
    if tokens is not None and tokens < 1:
        raise OptionError("tokens", "must be at least 1", value=tokens)
    scored, name = text_to_score(trained, text, paths, split)
    ids = np.asarray(scored.ids[:tokens], dtype=np.int64)
    require_tokens(ids)
    if trained.mode == "records":
        ids = whole_records(ids)
    return TextToRead(ids, name, is_cut=len(ids) < len(scored.ids))


def num_streams(ids: Ids) -> int:
    """Return the number of pieces of a text that are read side by side, each after a warm-up."""
    return min(_STREAMS, max(1, len(ids) // WARM_UP))


def texts_of(ids: Ids, tokenizer: Tokenizer, *, records: bool) -> list[str]:
    """Return the text that each token adds, without an incomplete character at its end.

    Args:
        ids: Text, (tokens,).
        tokenizer: Tokenizer of the ids.
        records: Whether <EOS> ends a record, and adds a line end.
    """
    decoder = Decoder(tokenizer)
    texts = [decoder.feed(token) for token in ids.tolist()]
    if records:
        for end in np.flatnonzero(ids == EOS).tolist():
            texts[end] = texts[end].removesuffix("\n") + "\n"
    return texts


def whole_records(ids: Integers) -> Integers:
    """Return the records that end in a text; a single one that does not end gets its <EOS>.

    >>> whole_records(np.array([5, 6, EOS, 7])).tolist()
    [5, 6, 0]
    >>> whole_records(np.array([5, 6, 7])).tolist()
    [5, 6, 0]
    """
    ends = eos_ends(ids)
    return ids[: ends[-1]] if len(ends) else np.append(ids[: max(1, len(ids) - 1)], EOS)
