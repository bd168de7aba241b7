"""What a decoder attends to while it writes a target."""

from dataclasses import dataclass

from charlm.storage.results import Result


@dataclass(frozen=True)
class Attention(Result):
    """The attention weights of a decoded text, from `charlm.tasks.translation.read_attention`.

        attention = charlm.load_translator("runs/dates").attention("3 May 2021")
        attention.weights[row][column]  # Of source token `column` for target token `row`.

    Attributes:
        source: Tokens of the source.
        target: Tokens that were written, the closing <EOS> included if the text has ended.
        weights: Weights of all source tokens for each target token, (target, source); each row sums
            to 1.
    """

    source: list[str]
    target: list[str]
    weights: list[list[float]]
