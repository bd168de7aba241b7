"""Requests of the API, with the types, ranges and descriptions of their fields.

An unknown field is an error, because a field that is silently ignored may change the text. These
are not: fields that never change a text (`IGNORED`), and unknown fields that are null.
"""

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
    field_validator,
)

from charlm.errors import OptionError
from charlm.sampling.options import SampleOptions, build_options
from charlm.serving.options import MAX_LOGPROBS

DEFAULT_MAX_TOKENS = 16  # As in OpenAI's API.
# Names of options in Python whose fields in requests are named as OpenAI's or vLLM's.
FIELD_OF = {
    "count": "n",
    "length": "max_tokens",
    "matching": "regex",
    "state_in": "state",
    "state_out": "state",
    "typical": "typical_p",
    "until": "stop",
}
OPTION_OF = {name: option for option, name in FIELD_OF.items()}
# Fields of other servers and clients that do not change a text.
IGNORED = frozenset(
    {
        "metadata",
        "priority",
        "prompt_cache_key",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
MAX_PROMPTS = 1000
MAX_BIASES = 1000
MAX_CHOICES = 1000
MAX_SENTENCES = 10_000
_MAX_STOPS = 64
_MAX_STOP_CHARACTERS = 1000
_MAX_REGEX_CHARACTERS = 1000
_MAX_COUNT = 10**9
_MAX_SEED = 2**63 - 1
_NAME_CHARACTERS = 1000

Prompt = str | list[int]


def _check_prompt(value: Any) -> str | list[str] | list[int] | list[list[int]]:
    """Check a prompt without an error per element of a long list."""
    if isinstance(value, str):
        return check_text(value)
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be a text, texts, token ids or lists of them, got {value!r:.60}")
    if all(type(item) is int for item in value):
        return value
    if len(value) > MAX_PROMPTS:
        raise ValueError(f"must be at most {MAX_PROMPTS} prompts, got {len(value)}")
    if all(type(item) is str for item in value):
        return [check_text(item) for item in value]
    if all(type(item) is list and all(type(token) is int for token in item) for item in value):
        return value
    raise ValueError("must be a text, texts, token ids or lists of token ids, not a mixture")


def _check_ids(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise ValueError("must be a list of token ids")
    return value


def check_text(text: str) -> str:
    """Return a text of a request; raise ValueError for one that is no Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is half of a surrogate pair, and no Unicode"
        ) from None
    return text


_TEXT_SCHEMA = {"type": "string"}
_IDS_SCHEMA = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PROMPT_SCHEMA = {
    "anyOf": [
        _TEXT_SCHEMA,
        {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_PROMPTS},
        _IDS_SCHEMA,
        {"type": "array", "items": _IDS_SCHEMA, "minItems": 1, "maxItems": MAX_PROMPTS},
    ]
}
Ids = Annotated[
    Any,
    PlainValidator(_check_ids),
    WithJsonSchema({"type": "array", "items": {"type": "integer", "minimum": 0}}),
]
Prompts = Annotated[Any, PlainValidator(_check_prompt), WithJsonSchema(_PROMPT_SCHEMA)]
_StopText = Annotated[str, Field(min_length=1, max_length=_MAX_STOP_CHARACTERS)]
_StopTexts = Annotated[list[_StopText], Field(max_length=_MAX_STOPS)]
_Stops = Annotated[
    _StopTexts,
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    WithJsonSchema(TypeAdapter(_StopText | _StopTexts).json_schema()),
]
_Name = Annotated[str, Field(max_length=_NAME_CHARACTERS)]
_Fraction = Annotated[float, Field(ge=0, le=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Count = Annotated[int, Field(ge=1, le=_MAX_COUNT)]
# Fields that requests of the page have, too.
TopK = Annotated[
    Annotated[int, Field(ge=-1, le=_MAX_COUNT)] | None,
    Field(description="Number of most probable tokens to draw from; 0 and -1 are off."),
]
TopP = Annotated[
    _Fraction | None,
    Field(description="Probability that the most probable tokens to draw from have together."),
]
MinP = Annotated[
    _Fraction | None,
    Field(description="Minimum probability, as a fraction of the most probable token's."),
]
TypicalP = Annotated[
    _Fraction | None,
    Field(description="Probability that the most typical tokens to draw from have together."),
]
NoRepeatNgram = Annotated[
    _Count | None,
    Field(description="Length of the n-grams that may not occur twice, in tokens."),
]


class RequestBody(BaseModel):
    """The body of a request; numbers are not read from texts, and unknown fields are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: _Name | None = Field(
        None, description="Name of the run that answers; by default the first one."
    )


class StreamOptions(BaseModel):
    """What a stream contains besides the text."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool = Field(
        False, description="Whether a last chunk without choices states the number of tokens."
    )


class CompletionRequest(RequestBody):
    """A request for texts that continue prompts, as in OpenAI's completions API."""

    prompt: Prompts = Field(
        "", description="One text, or the ids of one; or a list of such, each by itself."
    )
    max_tokens: Annotated[int, Field(ge=0, le=_MAX_COUNT)] | None = Field(
        None, description=f"Maximum number of new tokens; 0 for none. [{DEFAULT_MAX_TOKENS}]"
    )
    temperature: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        None, description="Divisor of the logits; 0 takes the most probable token. [1]"
    )
    top_p: TopP = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description="Number of texts for each prompt. [1]"
    )
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None,
        description="Number of candidates for each prompt, of which the `n` with the highest "
        "normalized log-probability are returned. [n]",
    )
    stream: bool | None = Field(None, description="Whether the text is sent while it is written.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = Field(
        None,
        description="Number of most probable tokens at each position whose log-probabilities are "
        "returned, besides that of the token itself.",
    )
    echo: bool | None = Field(None, description="Whether the text begins with the prompt.")
    stop: _Stops | None = Field(
        None, description="Texts that end the new text; they are not part of it."
    )
    seed: Annotated[int, Field(ge=0, le=_MAX_SEED)] | None = Field(
        None, description="Seed of the random numbers. [a new one]"
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None,
        max_length=MAX_BIASES,
        description="Number that is added to the logit of each token, by its id.",
    )
    presence_penalty: _Penalty | None = Field(
        None, description="Subtracted from the logit of each token that the new text has."
    )
    frequency_penalty: _Penalty | None = Field(
        None, description="Subtracted from the logit of a token per occurrence in the new text."
    )
    top_k: TopK = None
    min_p: MinP = None
    typical_p: TypicalP = None
    epsilon: _Fraction | None = Field(None, description="Probability that a token must exceed.")
    eta: _Fraction | None = Field(
        None, description="Like `epsilon`, but lower where the distribution is flat."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="Divisor of the logits of tokens that the text has; 1 is off."
    )
    repetition_window: _Count | None = Field(
        None, description="Number of last tokens that `repetition_penalty` applies to. [all]"
    )
    no_repeat_ngram: NoRepeatNgram = None
    regex: Annotated[str, Field(max_length=_MAX_REGEX_CHARACTERS)] | None = Field(
        None,
        description="Regular expression, in the syntax of Rust's regex crate, that the new text "
        "matches as a whole.",
    )
    max_copy: _Count | None = Field(
        None,
        description="Maximum number of characters in a row that are copied from the training text.",
    )
    ban: _StopTexts | None = Field(None, description="Texts that are never written.")
    characters: _Count | None = Field(
        None, description="Number of new characters, at which the text is cut exactly."
    )
    length_penalty: Annotated[float, Field(ge=0, le=1e6)] | None = Field(
        None, description="Exponent of the length normalization that ranks candidates. [0.6]"
    )
    allow_unknown: bool | None = Field(
        None,
        description="Whether unknown characters and words of the prompt are read as <UNK>, and "
        "`stop` and `ban` may have text that the model never writes; else they are errors. [true]",
    )
    state: bool | Annotated[str, Field(min_length=1, max_length=_NAME_CHARACTERS)] | None = Field(
        None,
        description="true returns a handle to the position after the text; a handle continues the "
        "text from there, with `prompt` after it, and returns the next handle.",
    )
    include_stop_str_in_output: bool | None = Field(
        None, description="Whether the text ends with the stop text."
    )
    return_token_ids: bool | None = Field(None, description="Whether the ids are returned.")

    @field_validator("stop", "ban", "regex", mode="after")
    @classmethod
    def _check_unicode(cls, value: str | list[str] | None) -> str | list[str] | None:
        for text in [value] if isinstance(value, str) else value or []:
            check_text(text)
        return value

    @field_validator("logit_bias", mode="after")
    @classmethod
    def _check_ids(cls, biases: dict[str, float] | None) -> dict[str, float] | None:
        for token in biases or {}:
            if not (token.isascii() and token.isdigit() and len(token) < 10):
                raise ValueError(f"must have token ids as keys, got {token!r:.60}")
        return biases

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts, each a text or ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @property
    def num_choices(self) -> int:
        """Number of texts for each prompt."""
        return self.n or 1

    @property
    def num_candidates(self) -> int:
        """Number of candidates for each prompt."""
        return self.best_of or self.num_choices

    @property
    def writes(self) -> bool:
        """Whether new text is asked for."""
        return self.max_tokens != 0

    @property
    def handle(self) -> str | None:
        """Handle of the state that the text continues from, or None."""
        return self.state if isinstance(self.state, str) else None

    def sample_options(self) -> SampleOptions:
        """Return how the texts are sampled, without prompt, seed and state.

        Raises:
            OptionError: A value is out of its range, or options exclude each other.
        """
        if self.num_candidates < self.num_choices:
            raise OptionError("best_of", "must be at least n", value=self.best_of)
        return build_options(SampleOptions, self._stop_and_constraints() | self._filters())

    def _filters(self) -> dict[str, Any]:
        biases = {int(token): bias for token, bias in (self.logit_bias or {}).items()}
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_k": self.top_k if (self.top_k or 0) > 0 else None,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "typical": self.typical_p,
            "epsilon": self.epsilon,
            "eta": self.eta,
            "repetition_penalty": self.repetition_penalty,
            "repetition_window": self.repetition_window,
            "no_repeat_ngram": self.no_repeat_ngram,
            "presence_penalty": self.presence_penalty or None,
            "frequency_penalty": self.frequency_penalty or None,
            "logit_bias": tuple(sorted(biases.items())) or None,
        }

    def _stop_and_constraints(self) -> dict[str, Any]:
        length = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        candidates = self.num_candidates > self.num_choices
        return {
            # A text that is exact in its characters has no default number of tokens.
            "length": None if self.characters and self.max_tokens is None else length or 1,
            "characters": self.characters,
            "until": tuple(self.stop or ()),
            "includes_until": bool(self.include_stop_str_in_output),
            "ban": tuple(self.ban or ()),
            "max_copy": self.max_copy,
            "matching": self.regex,
            "count": self.num_choices,
            "best_of": self.num_candidates if candidates else None,
            "length_penalty": self.length_penalty,
            "allow_unknown": self.allow_unknown is not False,
            "state_out": True if self.state else None,
        }


class ScoreRequest(RequestBody):
    """A request for the log-probabilities of sentences, as `charlm eval sentences` gives them."""

    sentences: Annotated[list[str], Field(min_length=1, max_length=MAX_SENTENCES)] = Field(
        description="Sentences, each read by itself."
    )
    explain: bool = Field(False, description="Whether the score of each token is returned.")

    @field_validator("sentences", mode="after")
    @classmethod
    def _check_unicode(cls, value: list[str]) -> list[str]:
        return [check_text(text) for text in value]


class TokenizeRequest(RequestBody):
    """A text whose token ids are asked for."""

    prompt: str = Field(description="The text; <EOS> at its beginning is the id 0.")
    add_special_tokens: bool = Field(True, description="Without effect: there are none to add.")

    @field_validator("prompt", mode="after")
    @classmethod
    def _check_unicode(cls, value: str) -> str:
        return check_text(value)


class DetokenizeRequest(RequestBody):
    """Token ids whose text is asked for."""

    tokens: Ids = Field(description="Token ids.")
