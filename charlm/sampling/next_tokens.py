"""The most probable next tokens of a prompt."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from charlm.data.tokenizer import EOS, EOS_TEXT, UNK_TEXT
from charlm.errors import quote
from charlm.sampling.options import NextOptions
from charlm.sampling.plan import in_reading_order
from charlm.sampling.prompt_reader import read_once
from charlm.sampling.prompts import first_token, read_prompt
from charlm.sampling.stepper import Stepper
from charlm.sampling.threads import num_weights, threads_for_step
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel, provenance, require_one_direction


@dataclass(frozen=True)
class NextToken:
    r"""A token that may follow a prompt.

    Attributes:
        id: Id of the token.
        text: Text of the token; bytes that are no whole character are written as \xe2. "<EOS>" ends
            a text, and "<UNK>" is an unknown character or word, which is never written.
        probability: Probability of the token.
    """

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class NextTokens(Result):
    """The most probable next tokens of a prompt.

    Attributes:
        prompt: The prompt.
        tokens: Tokens, the most probable first.
        num_others: Number of the other tokens of the vocabulary.
        others_probability: Probability of these together.
        settings: Facts that the probabilities depend on.
    """

    prompt: str
    tokens: list[NextToken]
    num_others: int
    others_probability: float
    settings: dict[str, Any] = field(repr=False)

    def lines(self) -> Iterator[str]:
        """Yield a row for each token, and one for the others."""
        yield f"{'probability':>11}  token"
        for token in self.tokens:
            yield f"{token.probability:>11.2%}  {_visible(token.text)}"
        if self.num_others:
            yield f"{self.others_probability:>11.2%}  the other {self.num_others:,} tokens"


@torch.inference_mode()
def next_tokens(trained: TrainedModel, options: NextOptions) -> NextTokens:
    """Return the most probable next tokens of a prompt.

    The probabilities are the model's own: at temperature 1, without filters. If the prompt ends
    with a space that belongs to the next token, they are those of the tokens that begin with one.
    A model that reads backward gives the tokens before the prompt.

    Raises:
        UnsupportedOptionError: The prompt has unknown characters or words.
        CharlmError: The model reads in both directions.
    """
    require_one_direction(trained)
    prompt = read_prompt(trained, options.prompt, allow_unknown=options.allow_unknown)
    ids = [EOS, *in_reading_order(trained, prompt.ids)]
    states = read_once(trained.model, ids[:-1])
    last = torch.tensor(ids[-1:], device=trained.device)
    with threads_for_step(num_weights(trained.model)):
        logits, _ = Stepper(trained.model)(last, states)
    for constraint in first_token(trained, prompt):
        logits = constraint.mask(logits)
    probabilities = logits[0].double().softmax(dim=-1)
    values, indices = probabilities.topk(min(options.count, len(probabilities)))
    texts = trained.tokenizer.token_bytes
    tokens = [
        NextToken(
            id=index,
            text=EOS_TEXT if index == EOS else texts[index].decode(errors="backslashreplace"),
            probability=probability,
        )
        for index, probability in zip(indices.tolist(), values.tolist(), strict=True)
        if probability > 0
    ]
    return NextTokens(
        prompt=options.prompt,
        tokens=tokens,
        num_others=len(probabilities) - len(tokens),
        others_probability=max(0.0, 1 - sum(token.probability for token in tokens)),
        settings=provenance(trained) | {"temperature": 1.0},
    )


def _visible(token: str) -> str:
    """Return the text of a token in quotation marks, in which spaces and line ends are visible."""
    if token in (EOS_TEXT, UNK_TEXT):
        return token
    shown = quote(token)
    # A token that is no whole character is written with backslashes already.
    return shown.replace("\\\\x", "\\x") if token.startswith("\\x") else shown
