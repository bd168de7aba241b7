"""Requests of the page: their fields, and what they may ask for."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from charlm.sampling.options import Filters

MAX_CHARACTERS = 20_000
MAX_RECORDS = 100
MAX_RECORD_TOKENS = 1000
MAX_MEMORY_CHARACTERS = 2000

_Text = Annotated[str, Field(max_length=MAX_CHARACTERS)]
_Position = Annotated[int, Field(ge=0, le=MAX_CHARACTERS)]


class PageRequest(BaseModel):
    """What all requests of the page have.

    Attributes:
        model: Name of the run; the first one by default.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, max_length=500)


class FilterFields(BaseModel):
    """Filters of the sampling, under the names of the API."""

    temperature: float = Field(1.0, ge=0, le=100)
    top_k: int | None = Field(None, ge=1)
    top_p: float | None = Field(None, ge=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, ge=0, le=1)
    no_repeat_ngram: int | None = Field(None, ge=1, le=MAX_CHARACTERS)

    def filters(self) -> Filters:
        """Return the options of the sampling."""
        values: dict[str, Any] = {name: getattr(self, name) for name in FilterFields.model_fields}
        return Filters(typical=values.pop("typical_p"), **values)


class ReadRequest(PageRequest):
    """The predictions of a text from an edited position on.

    Attributes:
        text: The text.
        start: First character that may have changed since the last request.
        alternatives: Number of most probable tokens to return with each token.
    """

    text: _Text
    start: _Position = 0
    alternatives: int = Field(10, ge=0, le=10)


class NextRequest(PageRequest, FilterFields):
    """The distribution of the next token at a position of a text.

    Attributes:
        text: The text.
        at: Character; None for the end of the text.
        max_copy: Maximum number of characters copied from the training text.
    """

    text: _Text
    at: _Position | None = None
    max_copy: int | None = Field(None, ge=1, le=MAX_CHARACTERS)


class CopiesRequest(PageRequest):
    """The passages of a text that the training text has, too.

    Attributes:
        text: The text.
        start: First character that may have changed since the last request.
        min_characters: Length from which on a passage counts.
    """

    text: _Text
    start: _Position = 0
    min_characters: int = Field(20, ge=1, le=1000)


class MemoryRequest(PageRequest):
    """The tokens that each prediction of a passage depends on.

    Attributes:
        text: The passage.
    """

    text: str = Field(max_length=MAX_MEMORY_CHARACTERS)


class RecordsRequest(PageRequest, FilterFields):
    """Records that the model writes.

    Attributes:
        count: Number of records.
        seed: Seed of the random numbers.
        max_tokens: Number of tokens after which a record ends.
    """

    count: int = Field(20, ge=1, le=MAX_RECORDS)
    seed: int = Field(1, ge=0, le=2**63 - 1)
    max_tokens: int = Field(200, ge=1, le=MAX_RECORD_TOKENS)
