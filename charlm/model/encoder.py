"""Embedding and recurrence: ids and states to features and the next states."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from charlm.config.model import Model as ModelSection
from charlm.errors import OptionError
from charlm.model.block import GriffinBlock
from charlm.model.cells.registry import make_cell
from charlm.model.dropout import Dropout, WordDropout
from charlm.model.embedding import make_embedding
from charlm.model.ngrams import NgramEmbedding
from charlm.model.recurrence import Recurrence, Run, States, run


class Encoder(nn.Module):
    """The part of a network that reads tokens. Its state is explicit: an argument and a result.

    Attributes:
        embedding_size: Width of an embedded token, without its n-grams.
        hidden_size: Width of the features.
        embedding: Ids to vectors.
        ngrams: Last n-grams to vectors, which are joined with that of the token; None without.
        recurrence: Layers of cells.
        backward_recurrence: Layers that read sequences from their end, in direction `both`; else
            None.
    """

    def __init__(self, section: ModelSection, vocabulary_size: int) -> None:
        """Create an encoder with initial weights from torch's global generator.

        Args:
            section: Sizes and options of the network.
            vocabulary_size: Number of ids.
        """
        super().__init__()
        self.embedding = make_embedding(section, vocabulary_size)
        self.embedding_size = self.embedding.embedding_dim
        self.ngrams = _make_ngrams(section)
        width = self.embedding_size + (self.ngrams.width if self.ngrams else 0)
        self.recurrence = _make_recurrence(section, width)
        self.backward_recurrence = (
            _make_recurrence(section, width) if section.direction == "both" else None
        )
        self.hidden_size = self.recurrence.output_size
        self.word_dropout = WordDropout(section.word_dropout, vocabulary_size)
        self.embedding_dropout = Dropout(
            section.embedding_dropout, whole_window=section.dropout_mask == "window"
        )

    def forward(
        self, ids: Tensor, states: States | None = None, *, run: Run = run
    ) -> tuple[Tensor, States]:
        """Read a window.

        Args:
            ids: Ids of the window, (time, batch). In direction `both` the second half of the batch
                belongs to the backward recurrence.
            states: State of each layer before the window, and after them that of the n-grams if
                there are any; those of the backward recurrence after those of the forward one. None
                for the initial states.
            run: Function that runs a cell over the window.

        Returns:
            Features, (time, batch, hidden), and the states after the window.

        Raises:
            OptionError: The ids have another shape, or no time step.
        """
        if ids.ndim != 2 or len(ids) == 0:
            problem = "must have the shape (time, batch), with at least one time step"
            raise OptionError("ids", problem, value=tuple(ids.shape))
        if states is None:
            states = self.initial_states(ids.shape[1])
        outputs: list[Tensor] = []
        states_after: list[States] = []
        recurrences = self.recurrences
        num_states = len(states) // len(recurrences)
        for number, (recurrence, columns) in enumerate(
            zip(recurrences, ids.chunk(len(recurrences), dim=1), strict=True)
        ):
            before = states[number * num_states : (number + 1) * num_states]
            num_layers = len(recurrence.cells)
            x, last = self.embed(columns, before[num_layers:])
            y, after = recurrence(x, before[:num_layers], run=run)
            outputs.append(y)
            states_after.append(after + last)
        features = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return features, tuple(state for after in states_after for state in after)

    def embed(self, ids: Tensor, last: States) -> tuple[Tensor, States]:
        """Return what the first layer reads: the embeddings of tokens and n-grams.

        Args:
            ids: Ids of a window of one direction, (time, batch).
            last: State of the n-grams before the window; empty without n-grams.

        Returns:
            Inputs of the first layer, (time, batch, width), and the state after the window.
        """
        x = self.word_dropout(self.embedding(ids), ids)
        if self.ngrams is not None:
            rows, after = self.ngrams(ids, last[0][0])
            x = torch.cat([x, rows], dim=-1)
            last = ((after,),)
        return self.embedding_dropout(x), last

    @property
    def recurrences(self) -> Sequence[Recurrence]:
        """The recurrence of each direction, the forward one first."""
        if self.backward_recurrence is None:
            return [self.recurrence]
        return [self.recurrence, self.backward_recurrence]

    def initial_states(self, batch_size: int) -> States:
        """Return the states before the first token; see `forward` for their order."""
        columns = batch_size // len(self.recurrences)
        return tuple(
            state
            for recurrence in self.recurrences
            for state in recurrence.initial_states(columns) + self._initial_ngrams(columns)
        )

    def _initial_ngrams(self, batch_size: int) -> States:
        """Return the state of the n-grams before the first token: <EOS>, id 0, everywhere."""
        if self.ngrams is None:
            return ()
        return ((self.ngrams.weight.new_zeros(batch_size, self.ngrams.order - 1),),)


def _make_ngrams(section: ModelSection) -> NgramEmbedding | None:
    if not section.ngrams:
        return None
    return NgramEmbedding(
        section.ngrams, section.ngram_buckets, section.ngram_width, section.ngram_dropout
    )


def _make_recurrence(section: ModelSection, input_size: int) -> Recurrence:
    cells, blocks = [], []
    for hidden_size in section.hidden_sizes:
        cells.append(make_cell(section.cell, input_size, hidden_size, gain=section.recurrent_gain))
        if section.block == "griffin":
            units = cells[-1].hidden_size
            blocks.append(GriffinBlock(input_size, units, section.mlp_expansion))
        else:
            input_size = cells[-1].hidden_size
    return Recurrence(
        cells,
        dropout=Dropout(section.dropout, whole_window=section.dropout_mask == "window"),
        skip=section.skip,
        layer_norm=section.layer_norm,
        learn_initial=section.initial_state == "learned",
        weight_dropout=section.weight_dropout,
        blocks=blocks,
    )
