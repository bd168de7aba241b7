"""The section `corpus`: the text, and how it is read and split."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from charlm.config.section import Fraction, Section, as_list

# Values of fields that are not given, if the corpus card does not give them either.
VALID_SHARE, TEST_SHARE = 0.1, 0.0
RULES = 2  # Version of the rules by which new runs read texts.


def _single_value(value: object) -> object:
    """Refuse a list or a mapping, and a number that is not finite."""
    is_plain = value is None or isinstance(value, str | int | float)
    if not is_plain or (isinstance(value, float) and not math.isfinite(value)):
        raise PydanticCustomError("not_a_scalar", "is not a single value")
    return value


def not_empty(name: str) -> str:
    """Refuse an empty name. Unlike `min_length`, this accepts a file name that is not UTF-8."""
    if not name:
        raise PydanticCustomError("string_too_short", "is empty", {"min_length": 1})
    return name


TextNames = Annotated[
    tuple[Annotated[str, AfterValidator(not_empty)], ...],
    BeforeValidator(as_list),
    Field(min_length=1),
]
Scalar = Annotated[str | int | float | bool | None, BeforeValidator(_single_value)]
Mode = Literal["stream", "records"]
Split = Literal["contiguous", "documents", "shuffled"]
Copies = Literal["together", "apart"]
Record = Literal["line", "document"]


class Corpus(Section):
    """The text. A field that is null is set by the corpus card, else to the value in brackets."""

    text: TextNames = Field(
        ("python-docs",),
        description=(
            "Name of a corpus (see charlm corpus list), or files, folders and patterns such as "
            "'*.txt'; compressed files (.gz, .bz2, .xz, .zst) and tables (.jsonl, .ndjson, "
            ".json, .csv, .tsv, .parquet) are read too."
        ),
    )
    valid_text: TextNames | None = Field(
        None, description="Separate text for validation, instead of a part of `text`."
    )
    test_text: TextNames | None = Field(
        None, description="Separate text for testing, instead of a part of `text`."
    )
    mode: Mode | None = Field(
        None,
        description=(
            "stream: one long text; records: each record is an independent sequence. [stream]"
        ),
    )
    record: Record | None = Field(
        None,
        description=(
            "records mode: what a record is: line; document, which can have several lines: a row "
            "of a table, the text between two separators, or a file. [document if there is a "
            "separator or the text is a table, else line]"
        ),
    )
    valid_share: Fraction | None = Field(
        None,
        description="Fraction of `text` held out for validation if there is no `valid_text`. [0.1]",
    )
    test_share: Fraction | None = Field(
        None,
        description="Fraction of `text` held out for testing if there is no `test_text`. [0]",
    )
    split: Split | None = Field(
        None,
        description=(
            "Which part is held out: contiguous: the end of the text; documents: the "
            "last whole documents; shuffled: documents or records chosen by "
            "split_seed. [contiguous in stream mode, shuffled in records mode]"
        ),
    )
    split_seed: int = Field(
        1,
        ge=0,
        description=(
            "Seed of the shuffled split. It is separate from training.seed, so that "
            "runs with different seeds share one held-out text."
        ),
    )
    copies: Copies | None = Field(
        None,
        description=(
            "split: shuffled: together: all copies of a text are in one part, so that no held-out "
            "text occurs in training; apart: each copy is drawn by itself. [together]"
        ),
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description=(
            r"Text between the documents of a file, as in \n\n for an empty line; in a YAML file "
            r'in double quotes: "\n\n". [none: each file is one document]'
        ),
    )
    encoding: str = Field(
        "utf-8", description="Encoding of the text files, also of JSON and CSV tables."
    )
    field: str | None = Field(
        None,
        min_length=1,
        description=(
            "Tables: name of the field that contains the text of a document. Rows in which it is "
            "null are skipped. [text]"
        ),
    )
    where: dict[str, Scalar] = Field(
        {},
        description=(
            "Tables: read only documents whose fields have these values, as in {language: en}. A "
            "text field also matches the value that YAML reads in it, as in {year: 2020}."
        ),
    )
    source: str | None = Field(
        None,
        min_length=1,
        description=(
            "Tasks, tables: name of the field with the source, such as a text to classify. [the "
            "only possible one]"
        ),
    )
    target: str | None = Field(
        None,
        min_length=1,
        description=(
            "Tasks, tables: name of the field with the target, such as a label. [the only possible "
            "one]"
        ),
    )
    rules: Literal[1, 2] | None = Field(
        None,
        description=(
            "Version of the rules for reading texts (docs/corpora.md). 1: those of earlier "
            "versions of charlm, for their run folders. [2]"
        ),
    )


def _described(name: str) -> Any:
    """Return a required field with the description of the same field of `Corpus`."""
    return Field(description=Corpus.model_fields[name].description)


class ResolvedCorpus(Corpus):
    """A corpus section in which every field has a value; made by `charlm.data.resolve`."""

    mode: Mode = _described("mode")
    record: Record = _described("record")
    valid_share: Fraction = _described("valid_share")
    test_share: Fraction = _described("test_share")
    split: Split = _described("split")
    rules: Literal[1, 2] = _described("rules")
    copies: Copies = _described("copies")
