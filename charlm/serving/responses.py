"""Responses of the API, with the descriptions of their fields."""

from typing import Any, Literal

from pydantic import BaseModel, Field


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int = Field(description="New tokens of all candidates.")
    total_tokens: int


class Logprobs(BaseModel):
    """Log-probabilities of the tokens of a text: of the model itself, at temperature 1."""

    tokens: list[str] = Field(description="Name of each token, different for each id.")
    token_logprobs: list[float | None] = Field(
        description="Log-probability of each token in nats; null for the first of the prompt."
    )
    top_logprobs: list[dict[str, float] | None] | None = Field(
        description="Log-probabilities of the most probable tokens and of the token itself."
    )
    text_offset: list[int] = Field(
        description="Number of characters of `text` before each token; in a stream, of the whole."
    )


class Choice(BaseModel):
    """A text."""

    index: int
    number: int = Field(description="Number of the text among those of the seed.")
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"] | None
    token_ids: list[int] | None = Field(description="Ids of the tokens, if asked for.")
    state: str | None = Field(description="Handle to the position after the text, if asked for.")


class Completion(BaseModel):
    """Texts, or a part of them in a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[Choice]
    usage: Usage | None = Field(description="Null in a stream, except in its last part.")
    seed: int = Field(description="Seed with which the same request gives the same texts.")


class ModelInfo(BaseModel):
    """A run."""

    id: str = Field(description="Name of the run folder.")
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["charlm"] = "charlm"
    checkpoint: str
    step: int
    level: str
    mode: str
    vocabulary_size: int
    max_model_len: int = Field(description="Number of tokens of a text, prompt included.")
    record_separator: str | None = Field(description="Text between two records, or null.")


class ModelList(BaseModel):
    """All runs."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class TokenizerInfo(BaseModel):
    """Special tokens of the tokenizer, as lm-evaluation-harness asks for them."""

    eos_token: str
    bos_token: str | None = None
    pad_token: str | None = None
    chat_template: str | None = None


class TokenizeResponse(BaseModel):
    """Token ids of a text."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeResponse(BaseModel):
    """Text of token ids."""

    prompt: str


class TokenScoreInfo(BaseModel):
    """The probability of one token of a sentence."""

    token: int
    text: str
    probability: float
    log_probability: float


class SentenceInfo(BaseModel):
    """The score of a sentence."""

    line: int
    text: str
    log_probability: float
    log_probability_per_token: float
    tokens: int
    unknown: int
    explained: list[TokenScoreInfo] | None = None


class ScoreResponse(BaseModel):
    """Scores of sentences."""

    sentences: list[SentenceInfo]
    settings: dict[str, Any]


class Health(BaseModel):
    """That the server answers."""

    status: Literal["ok"] = "ok"
    server: Literal["charlm"] = "charlm"
    version: str
    models: list[str]


class ErrorInfo(BaseModel):
    """What is wrong with a request."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The response to a request that fails."""

    error: ErrorInfo
