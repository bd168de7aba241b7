"""One token of a model after another: what the generation loop asks for, as fast as the equations allow."""

import torch
from torch import Tensor, nn

from charlm.model.cells.base import Cell, State
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States

_LARGEST_TABLE = 2**24  # Entries: 64 megabytes in fp32, a vocabulary of 8,000 for an LSTM of 512.


class Stepper:
    """A model that reads one way, a token at a time.

    Embedding times the first layer's input matrix is one table of the vocabulary's rows, made once, where it is not too
    large; a step is then that row and `Cell.step`, without a kernel's work around it.
    """

    @torch.inference_mode()
    def __init__(self, model: LanguageModel) -> None:
        """Make one from the weights as they are now; `model` is in evaluation mode."""
        self._recurrence = model.encoder.recurrence
        self._first: Cell = model.encoder.recurrence.layers[0]
        self._stands_alone = len(model.encoder.recurrence.layers) == 1 and isinstance(
            model.encoder.recurrence.norms[0], nn.Identity
        )
        is_adapted = not isinstance(model.output_adapter, nn.Identity)
        self._project = (
            nn.Sequential(model.output_adapter, model.projection)
            if is_adapted
            else model.projection
        )
        embedded = model.encoder.embedding(
            torch.arange(model.vocabulary_size, device=next(model.parameters()).device)
        )
        width = self._first.project(embedded[:1]).shape[-1]
        self._is_projected = width * len(embedded) <= _LARGEST_TABLE
        self._rows: Tensor = self._first.project(embedded) if self._is_projected else embedded

    def __call__(self, ids: Tensor, states: States) -> tuple[Tensor, States]:
        """Read a token of each sequence.

        Args:
            ids: (batch,).
            states: Of every layer.

        Returns:
            Logits of the token after it, (batch, vocabulary), and the states.
        """
        rows = self._rows[ids]
        if (
            self._stands_alone
        ):  # The way of nearly every model, without what others have around their layers.
            output, state = self._advance(self._first, rows, states[0])
            states = (state,)
        else:
            features, states = self._recurrence(rows[None], states, run=self._run)
            output = features[0]
        logits: Tensor = self._project(output)
        return logits, states

    def _run(self, cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        output, state = self._advance(cell, x[0], state)
        return output[None], state

    def _advance(self, cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        projected = x if self._is_projected and cell is self._first else cell.project(x)
        state = cell.step(projected, state)
        return cell.output(state), state
