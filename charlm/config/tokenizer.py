"""The section `tokenizer`: how text is divided into tokens."""

from typing import Literal

from pydantic import Field, model_validator

from charlm.config.section import MAX_UNITS, Section

Level = Literal["char", "byte", "word", "bpe"]
TOKEN_NAMES: dict[Level, str] = {
    "char": "characters",
    "byte": "bytes",
    "word": "words",
    "bpe": "subwords",
}
# Largest vocabularies, if neither the configuration nor the corpus card gives one.
VOCABULARY_SIZES = {"char": None, "byte": None, "word": 10_000, "bpe": 2_048}


class Tokenizer(Section):
    """How text is divided into tokens. <EOS> is 0 and <UNK> is 1 at every level."""

    level: Level = Field(
        "char",
        description=(
            "Kind of token: char, byte, word, or bpe (subwords). If not given, the "
            "corpus card decides."
        ),
    )
    vocabulary_size: int | None = Field(
        None,
        ge=3,
        le=MAX_UNITS,
        description=(
            "Maximum number of tokens, including <EOS> and <UNK>. [char: all "
            "characters; word: 10000; bpe: 2048; byte: always 258]"
        ),
    )
    min_count: int = Field(
        1,
        ge=1,
        description=(
            "Minimum number of times that a character or word must occur to be in the vocabulary."
        ),
    )
    lowercase: bool = Field(False, description="Convert the text to lower case.")
    normalization: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] = Field(
        "none",
        description=(
            "Unicode normalization. With none, decoding returns exactly the original text."
        ),
    )
    eos: Literal["document", "line", "sentence", "none"] = Field(
        "document",
        description="stream mode: <EOS> follows each document, line or sentence, or nothing.",
    )
    words: Literal["words", "whitespace"] = Field(
        "words",
        description=(
            "level word: words: any text, spaces are preserved; whitespace: words are "
            "separated by spaces and each line ends with <EOS>, as in published "
            "word-level tasks."
        ),
    )

    @model_validator(mode="after")
    def _has_an_effect(self) -> "Tokenizer":
        if self.words == "whitespace" and self.level != "word":
            raise ValueError(
                f"words: whitespace needs level: word, got level: {self.level}; "
                "set tokenizer.level=word"
            )
        if self.words == "whitespace" and self.eos == "sentence":
            raise ValueError("eos: with words: whitespace, each line ends with <EOS>; remove eos")
        if self.level == "byte":
            self._check_no_effect_on_bytes()
        return self

    def _check_no_effect_on_bytes(self) -> None:
        for name in ("vocabulary_size", "min_count", "lowercase", "normalization"):
            if not self.has_default(name):
                raise ValueError(
                    f"{name}: has no effect at level byte, got {getattr(self, name)!r}; remove it"
                )
