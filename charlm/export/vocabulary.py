"""The vocabulary of a model from elsewhere, and which of its rows each token of charlm has."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charlm.config.corpus import Mode
from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.data.vocabulary import learn_tokenizer, load_tokenizer
from charlm.errors import CharlmError, OptionError, TokenizerError, quote
from charlm.runs.verify import MAX_BYTES
from charlm.storage.untrusted import one_line, parse_json, read_regular_file

# Logit of a token that the model does not have: its probability is about e^-100.
NO_PROBABILITY = -100.0
_LEVELS: tuple[dict[str, Any], ...] = (
    {"level": "char"},
    {"level": "byte"},
    {"level": "bpe"},
    {"level": "word"},
    {"level": "word", "words": "whitespace"},
)
_FORMS = ("none", "nfc", "nfd", "nfkc", "nfkd")
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r"}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model from elsewhere.

    Attributes:
        size: Number of tokens of that model.
        tokenizer: Tokenizer of charlm, with <EOS> and <UNK>.
        inputs: For each id of the tokenizer, the row of the model that it is read as; None for the
            mean of all rows.
        outputs: For each id, the row of the model that predicts it; None for a token that it never
            predicts.
        notes: What became of <EOS> and <UNK>, in sentences.
    """

    size: int
    tokenizer: Tokenizer
    inputs: list[int | None]
    outputs: list[int | None]
    notes: list[str]

    def read_rows(self, matrix: Tensor) -> Tensor:
        """Return a matrix with a row per token that is read, from one of the model's tokens."""
        mean = matrix.mean(dim=0)
        return torch.stack([mean if row is None else matrix[row] for row in self.inputs])

    def predicted_rows(self, matrix: Tensor) -> Tensor:
        """Return a matrix with a row per token that is predicted; zeros where there is none."""
        zero = torch.zeros_like(matrix[0])
        return torch.stack([zero if row is None else matrix[row] for row in self.outputs])

    def biases(self, bias: Tensor, *, tied: bool) -> Tensor:
        """Return the bias of each token; with a shared matrix, on top of the row that is read."""
        values = []
        for output, read in zip(self.outputs, self.inputs, strict=True):
            if output is not None:
                values.append(bias[output])
            else:
                base = bias[read] if tied and read is not None else bias.new_zeros(())
                values.append(base + NO_PROBABILITY)
        return torch.stack(values)


def read_vocabulary(path: Path, mode: Mode, *, eos: str | None, unknown: str | None) -> Vocabulary:
    r"""Read a tokenizer of charlm, or the characters of a model in the order of their ids.

    Args:
        path: `tokenizer.json` of charlm; or a JSON list, a JSON object from characters to ids, or a
            text file with every character once.
        mode: Mode in which the model will read texts.
        eos: Token of a list that stands for <EOS>; `\n`, `\t` and `\r` are escapes.
        unknown: Token of a list that stands for <UNK>.

    Raises:
        TokenizerError: The file cannot be read, or is neither.
        OptionError: A token must be named, or is not in the list.
    """
    try:
        data = read_regular_file(path, max_bytes=MAX_BYTES["tokenizer.json"])
        text = data.decode("utf-8-sig")  # Some editors begin a file with a byte order mark.
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or error
        raise TokenizerError(one_line(f"{path}: cannot be read as UTF-8 text: {problem}")) from None
    try:
        value = parse_json(text)
    except ValueError:
        value = list(text)
    if isinstance(value, dict) and "model" in value:
        return _of_charlm(path, text, eos=eos, unknown=unknown)
    tokens = _tokens_in_order(path, value if isinstance(value, list | dict) else list(text))
    return _of_list(path, tokens, mode, eos=_unescaped(eos), unknown=_unescaped(unknown))


def _of_charlm(path: Path, text: str, *, eos: str | None, unknown: str | None) -> Vocabulary:
    for option, given in (("eos", eos), ("unknown", unknown)):
        if given is not None:
            raise OptionError(option, "has no meaning for a tokenizer of charlm; remove it")
    for kind, form, lowercase in product(_LEVELS, _FORMS, (False, True)):
        if kind["level"] == "byte" and (form != "none" or lowercase):
            continue
        section = TokenizerSection.model_validate(
            kind | {"normalization": form, "lowercase": lowercase}
        )
        try:
            tokenizer = load_tokenizer(text, section)
        except TokenizerError:
            continue
        rows: list[int | None] = list(range(tokenizer.vocabulary_size))
        return Vocabulary(len(rows), tokenizer, rows, rows, ["<EOS> is 0 and <UNK> is 1"])
    raise TokenizerError(
        f"{path}: is not a tokenizer of charlm; give the characters of the model in the order of "
        "their ids, as a JSON list"
    )


def _tokens_in_order(path: Path, value: Any) -> list[str]:
    """Return the tokens of a list, or of an object from tokens to ids.

    Raises:
        TokenizerError: A token is no text, or occurs twice; or the ids are not 0, 1, 2, ...
    """
    if isinstance(value, dict):
        ids = list(value.values())
        if {type(index) for index in ids} != {int} or sorted(ids) != list(range(len(ids))):
            raise TokenizerError(f"{path}: the ids must be 0, 1, 2, ... without a gap")
        value = sorted(value, key=value.__getitem__)
    seen: set[str] = set()
    for number, token in enumerate(value):
        if not isinstance(token, str) or any("\ud800" <= letter <= "\udfff" for letter in token):
            raise TokenizerError(f"{path}: entry {number} must be a text, got {token!r:.40}")
        if token in seen:
            raise TokenizerError(
                f"{path}: {quote(token):.40} occurs twice; give each character once, in the order "
                "of the ids, as a JSON list"
            )
        seen.add(token)
    return list(value)


def _of_list(
    path: Path, tokens: Sequence[str], mode: Mode, *, eos: str | None, unknown: str | None
) -> Vocabulary:
    rows = {token: row for row, token in enumerate(tokens)}
    if eos is None:
        raise OptionError(
            "eos",
            "is missing: every text of charlm begins with <EOS>, which the vocabulary does not "
            r"have; name the token that the model reads before a text, such as '\n'",
        )
    for option, token in (("eos", eos), ("unknown", unknown)):
        if token is not None and token not in rows:
            raise OptionError(option, f"is not in {path}", value=token)
    if eos == unknown:
        raise OptionError("unknown", "must be another token than {}", others=["eos"], value=eos)
    # A character at which a stream begins is an ordinary character otherwise.
    is_copied = mode == "stream" and len(eos) == 1
    characters = [token for token in tokens if token != unknown and (is_copied or token != eos)]
    _check_characters(path, characters)
    section = TokenizerSection.model_validate({"eos": "none" if is_copied else "document"})
    own = [rows[token] for token in characters]
    unknown_row = None if unknown is None else rows[unknown]
    return Vocabulary(
        size=len(tokens),
        tokenizer=_character_tokenizer(characters, section),
        inputs=[rows[eos], unknown_row, *own],
        outputs=[None if is_copied else rows[eos], unknown_row, *own],
        notes=list(_notes(eos, unknown, is_copied)),
    )


def _notes(eos: str, unknown: str | None, is_copied: bool) -> Sequence[str]:
    shown = quote(eos)
    if is_copied:
        first = (
            f"<EOS> is read as {shown}, and only at the beginning of a text; the model never "
            "writes it"
        )
    else:
        first = f"<EOS> is the token {shown} of the model: it is read before a text and ends it"
    if unknown is not None:
        return [first, f"<UNK> is the token {quote(unknown)} of the model"]
    return [
        first,
        "<UNK> is not a token of the model: it is read as the mean of all tokens, and has a "
        "probability of about e^-100",
    ]


def _check_characters(path: Path, tokens: Sequence[str]) -> None:
    for token in tokens:
        if len(token) != 1:
            raise CharlmError(
                f"{path}: {quote(token):.60} is not one character; if it ends a text or stands for "
                "unknown characters, name it with --eos or --unknown"
            )


def _character_tokenizer(characters: Sequence[str], section: TokenizerSection) -> Tokenizer:
    saved = json.loads(learn_tokenizer([], section).to_json())
    ids = {character: index for index, character in enumerate(characters, UNK + 1)}
    saved["model"]["vocab"] = {"<EOS>": EOS, "<UNK>": UNK} | ids
    return load_tokenizer(json.dumps(saved), section)


def _unescaped(token: str | None) -> str | None:
    return None if token is None else _ESCAPES.get(token, token)
