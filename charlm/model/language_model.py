"""Embedding → recurrence → projection: ids and a state in, logits and the next state out."""

from torch import Tensor, nn

from charlm.config import Model as ModelSection
from charlm.model.cells import make_cell
from charlm.model.recurrence import Recurrence, States


class LanguageModel(nn.Module):
    """A recurrent language model. Its state is explicit: what goes in comes out advanced, nothing is kept inside."""

    def __init__(self, section: ModelSection, vocabulary_size: int) -> None:
        """Make a model with its initial weights, drawn from torch's global generator.

        Args:
            section: Sizes and options.
            vocabulary_size: Number of ids.
        """
        super().__init__()
        hidden, embedded = section.hidden_size, section.embedding_size
        self.embedding = nn.Embedding(vocabulary_size, embedded)
        sizes = [embedded] + [hidden] * (section.num_layers - 1)
        self.recurrence = Recurrence(
            [make_cell(section.cell, size, hidden) for size in sizes], dropout=section.dropout, skip=section.skip
        )
        # A tied projection has the embedding's width: where the hidden state's differs, one matrix stands between.
        bridged = section.tied and hidden != embedded
        self.bridge = nn.Linear(hidden, embedded, bias=False) if bridged else nn.Identity()
        self.projection = nn.Linear(embedded if section.tied else hidden, vocabulary_size)
        self.embedding_dropout = nn.Dropout(section.embedding_dropout)
        self.output_dropout = nn.Dropout(section.output_dropout)
        self._initialize(section.tied)

    def _initialize(self, tied: bool) -> None:
        nn.init.zeros_(self.projection.bias)
        if tied:  # As an embedding of unit variance its logits would start far too large.
            nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)
            self.projection.weight = self.embedding.weight

    def forward(self, ids: Tensor, states: States | None = None) -> tuple[Tensor, States]:
        """Predict the token after each of a window.

        Args:
            ids: The window, (time, batch).
            states: State before it, a tuple a layer; None for the zero state.

        Returns:
            Logits, (time, batch, vocabulary), and the states after the window.
        """
        if states is None:
            states = self.recurrence.initial_states(ids.shape[1])
        x = self.embedding_dropout(self.embedding(ids))
        y, states = self.recurrence(x, states)
        return self.projection(self.output_dropout(self.bridge(y))), states


def detach(states: States) -> States:
    """Return the states cut from the gradient."""
    return tuple(tuple(part.detach() for part in state) for state in states)


def count_parameters(model: nn.Module) -> list[tuple[str, tuple[int, ...], int]]:
    """Return name, shape and size of each parameter tensor; one that is shared counts once."""
    return [(name, tuple(tensor.shape), tensor.numel()) for name, tensor in model.named_parameters()]
