"""Embedding → recurrence → projection: ids and a state in, logits and the next state out."""

from collections.abc import Sequence
from copy import copy
from typing import cast

import torch
from torch import Tensor, nn

from charlm.config.schema import Model as ModelSection
from charlm.model.cells.make import make_cell
from charlm.model.dropout import Dropout, WordDropout
from charlm.model.embedding import OneHot, make_embedding
from charlm.model.projection import make_projection
from charlm.model.recurrence import Recurrence, Run, States, run


class LanguageModel(nn.Module):
    """A recurrent language model. Its state is explicit: what goes in comes out advanced, nothing is kept inside.

    Attributes:
        vocabulary_size: Number of ids.
        direction: `forward`; `backward`: the sequences that it is given run from their end to their beginning; `both`:
            two networks share embedding and projection, and the right half of a batch, reversed sequences, is the
            backward network's.
    """

    def __init__(self, section: ModelSection, vocabulary_size: int) -> None:
        """Make a model with its initial weights, drawn from torch's global generator.

        Args:
            section: Sizes and options.
            vocabulary_size: Number of ids.
        """
        super().__init__()
        self.direction = section.direction
        self.vocabulary_size = vocabulary_size
        self.embedding = make_embedding(section, vocabulary_size)
        embedded = self.embedding.embedding_dim
        self.recurrence = _make_recurrence(section, embedded)
        self.backward_recurrence = (
            _make_recurrence(section, embedded) if section.direction == "both" else None
        )
        hidden = self.recurrence.layers[-1].hidden_size
        # A tied matrix has the embedding's width: where the hidden state's differs, one matrix stands between.
        bridged = section.tied and hidden != embedded and section.mixture == 1
        self.bridge = nn.Linear(hidden, embedded, bias=False) if bridged else nn.Identity()
        self.projection = make_projection(
            section, embedded if bridged else hidden, embedded, vocabulary_size
        )
        whole_window = section.dropout_mask == "window"
        self.word_dropout = WordDropout(section.word_dropout, vocabulary_size)
        self.embedding_dropout = Dropout(section.embedding_dropout, whole_window=whole_window)
        self.output_dropout = Dropout(section.output_dropout, whole_window=whole_window)
        if section.tied and not isinstance(self.embedding, OneHot):
            # As an embedding of unit variance its logits would start far too large.
            nn.init.normal_(self.embedding.weight, std=embedded**-0.5)
            cast(nn.Linear, self.projection).weight = self.embedding.weight

    def forward(
        self, ids: Tensor, states: States | None = None, *, run: Run = run
    ) -> tuple[Tensor, States]:
        """Predict the token after each of a window.

        Args:
            ids: The window, (time, batch).
            states: State before it, a tuple a layer; None for the initial state.
            run: How a cell goes over the window.

        Returns:
            Logits, (time, batch, vocabulary), and the states after the window.
        """
        features, states = self.features(ids, states, run=run)
        logits: Tensor = self.projection(self.read(features))
        return logits, states

    def read(self, features: Tensor) -> Tensor:
        """Return what the projection reads of the recurrence's output: (time, batch, hidden) → (time, batch, width)."""
        read: Tensor = self.output_dropout(self.bridge(features))
        return read

    def features(
        self, ids: Tensor, states: States | None = None, *, run: Run = run
    ) -> tuple[Tensor, States]:
        """Return what the recurrence gives, (time, batch, hidden), and the states after; arguments as for `forward`."""
        networks = self.recurrences
        if states is None:
            states = self.initial_states(ids.shape[1])
        x = self.embedding_dropout(self.word_dropout(self.embedding(ids), ids))
        layers = len(states) // len(networks)
        outputs, after = [], []
        for number, (network, part) in enumerate(
            zip(networks, x.chunk(len(networks), dim=1), strict=True)
        ):
            y, advanced = network(part, states[number * layers : (number + 1) * layers], run=run)
            outputs.append(y)
            after += advanced
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return y, tuple(after)

    @property
    def recurrences(self) -> Sequence[Recurrence]:
        """The forward network and, with direction `both`, the backward one."""
        return (
            [self.recurrence]
            if self.backward_recurrence is None
            else [self.recurrence, self.backward_recurrence]
        )

    def one_way(self) -> list["LanguageModel"]:
        """Return the networks of the two directions, each as a model that shares its weights with this one."""
        models = []
        for network in self.recurrences:
            model = copy(self)
            model._modules = self._modules | {"recurrence": network, "backward_recurrence": None}
            models.append(model)
        return models

    def initial_states(self, batch: int) -> States:
        """Return the states before the first token, the backward network's after the forward one's."""
        share = batch // len(self.recurrences)
        return tuple(
            state for network in self.recurrences for state in network.initial_states(share)
        )


def detach(states: States) -> States:
    """Return the states cut from the gradient."""
    return tuple(tuple(part.detach() for part in state) for state in states)


def count_parameters(model: nn.Module) -> list[tuple[str, tuple[int, ...], int]]:
    """Return name, shape and size of each parameter tensor; one that is shared counts once."""
    return [
        (name, tuple(tensor.shape), tensor.numel()) for name, tensor in model.named_parameters()
    ]


def _make_recurrence(section: ModelSection, input_size: int) -> Recurrence:
    cells = []
    for hidden_size in section.hidden_sizes:
        cells.append(make_cell(section.cell, input_size, hidden_size, gain=section.recurrent_gain))
        input_size = cells[-1].hidden_size
    return Recurrence(
        cells,
        dropout=section.dropout,
        skip=section.skip,
        layer_norm=section.layer_norm,
        learn_initial=section.initial_state == "learned",
        whole_window=section.dropout_mask == "window",
        weight_dropout=section.weight_dropout,
    )
