"""Requests and responses of the routes that the page needs besides the API."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, RootModel, field_validator

from charlm.evaluation.probes.memory import Memory
from charlm.sampling.options import Filters
from charlm.serving.next_token import NextToken
from charlm.serving.reading import Reading
from charlm.serving.schemas import (
    MinP,
    NoRepeatNgram,
    RequestBody,
    TopK,
    TopP,
    TypicalP,
    check_text,
)
from charlm.storage.results import Result

MAX_CHARACTERS = 20_000
MAX_MEMORY_CHARACTERS = 2000
MAX_MEMORY_TOKENS = 128  # The cost grows with the square of the number.
_MAX_RECORDS = 100
_MAX_RECORD_TOKENS = 1000

_Position = Annotated[int, Field(ge=0, le=MAX_CHARACTERS)]


class _TextRequest(RequestBody):
    """A request about a text."""

    text: str = Field(max_length=MAX_CHARACTERS, description="The text.")

    @field_validator("text", mode="after")
    @classmethod
    def _check_unicode(cls, value: str) -> str:
        return check_text(value)


class _FilterFields(RequestBody):
    """How a token is drawn, in the fields of `/v1/completions`."""

    temperature: float = Field(
        1.0, ge=0, le=1e6, description="Divisor of the logits; 0 takes the most probable token."
    )
    top_k: TopK = None
    top_p: TopP = None
    min_p: MinP = None
    typical_p: TypicalP = None
    no_repeat_ngram: NoRepeatNgram = None

    def filters(self) -> Filters:
        """Return the options of the sampling."""
        return Filters(
            temperature=self.temperature,
            top_k=self.top_k if (self.top_k or 0) > 0 else None,
            top_p=self.top_p,
            min_p=self.min_p,
            typical=self.typical_p,
            no_repeat_ngram=self.no_repeat_ngram,
        )


class ReadRequest(_TextRequest):
    """A request for the predictions of a text from an edited position on."""

    start: _Position = Field(
        0, description="First character that may have changed since the last request."
    )
    alternatives: int = Field(
        10, ge=0, le=10, description="Number of most probable tokens to return with each token."
    )


class NextRequest(_TextRequest, _FilterFields):
    """A request for the distribution of the token at a position of a text."""

    at: _Position | None = Field(
        None, description="Character; within a token it stands for the token. [the end]"
    )
    max_copy: Annotated[int, Field(ge=1, le=MAX_CHARACTERS)] | None = Field(
        None,
        description="Maximum number of characters in a row that are copied from the training text.",
    )


class CopiesRequest(_TextRequest):
    """A request for the passages of a text that the training text has, too."""

    start: _Position = Field(
        0, description="First character that may have changed since the last request."
    )
    min_characters: int = Field(
        20, ge=1, le=1000, description="Number of characters from which on a passage counts."
    )


class MemoryRequest(_TextRequest):
    """A request for the tokens that each prediction of a passage depends on."""

    text: str = Field(
        max_length=MAX_MEMORY_CHARACTERS,
        description=f"The passage, of which at most {MAX_MEMORY_TOKENS} tokens are measured.",
    )


class RecordsRequest(_FilterFields):
    """A request for records that the model writes."""

    count: int = Field(20, ge=1, le=_MAX_RECORDS, description="Number of records.")
    seed: int = Field(1, ge=0, le=2**63 - 1, description="Seed of the random numbers.")
    max_tokens: int = Field(
        200, ge=1, le=_MAX_RECORD_TOKENS, description="Number of tokens after which a record ends."
    )


@dataclass(frozen=True)
class Copies(Result):
    """The passages of a text that the training text has, too.

    Attributes:
        start: Character before which all passages are the same as before the edit.
        spans: First character of each later passage, and the one after its last.
        reason: Why copies cannot be found, or None.
    """

    start: int
    spans: list[tuple[int, int]]
    reason: str | None


@dataclass(frozen=True)
class Record(Result):
    """A record that a model wrote.

    Attributes:
        text: The record.
        log_probability: Log-probability of its tokens and its end, in nats.
        tokens: Number of tokens without <EOS>.
        ended: Whether the model ended it.
        is_new: Whether the training text does not have it; None if that is not known.
    """

    text: str
    log_probability: float | None
    tokens: int
    ended: bool
    is_new: bool | None


@dataclass(frozen=True)
class Records(Result):
    """Records that a model wrote.

    Attributes:
        records: The records.
        reason: Why it is not known whether they are new, or None.
    """

    records: list[Record]
    reason: str | None


@dataclass(frozen=True)
class RunInfo(Result):
    """What the page shows of a run.

    Attributes:
        name: Name of the run in requests.
        cell: Kind of the recurrence.
        level: Level of its tokens.
        separates_by_space: Whether spaces separate tokens and belong to none.
        separator: Text between two records, or None.
        writes_records: Whether the model ends a text.
        direction: Direction of reading.
        vocabulary_size: Number of ids.
        example: Text that the model wrote during its training, or an empty text.
        unavailable: For each view, why the run does not have it, or None.
    """

    name: str
    cell: str
    level: str
    separates_by_space: bool
    separator: str | None
    writes_records: bool
    direction: str
    vocabulary_size: int
    example: str
    unavailable: dict[str, str | None]


@dataclass(frozen=True)
class RunList(Result):
    """The runs of the server, and limits of requests.

    Attributes:
        runs: The runs.
        limits: Number of characters of a text and of a passage, and of tokens of a passage.
    """

    runs: list[RunInfo]
    limits: dict[str, int]


class ReadResponse(RootModel[Reading]):
    """The predictions of a text from a position on."""


class NextResponse(RootModel[NextToken]):
    """The distribution of the token at a position of a text."""


class CopiesResponse(RootModel[Copies]):
    """The passages of a text that the training text has, too."""


class MemoryResponse(RootModel[Memory]):
    """The tokens that each prediction of a passage depends on."""


class RecordsResponse(RootModel[Records]):
    """Records that a model wrote."""


class RunsResponse(RootModel[RunList]):
    """The runs of the server."""
