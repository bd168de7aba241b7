"""One token per step: the model of one direction as a fast function of ids and states."""

import torch
from torch import Tensor, nn

from charlm.model.cells.base import Cell, State
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States

# Number of entries: 64 MiB in fp32, a vocabulary of 8,000 for an LSTM of hidden size 512.
_MAX_TABLE_SIZE = 2**24


class Stepper:
    """A model of one direction that reads one token per call.

    The product of the embedding and the first layer's input matrix is computed once, as a table
    with a row per token, unless it would be too large or the input contains n-grams. A step is then
    a row of that table and `Cell.step`, without the overhead of a kernel for whole windows.
    """

    @torch.inference_mode()
    def __init__(
        self, model: LanguageModel, *, max_table_size: int | None = _MAX_TABLE_SIZE
    ) -> None:
        """Compute the table from the present weights.

        Args:
            model: Model in evaluation mode.
            max_table_size: Largest number of entries of the table; None for no limit.
        """
        encoder = model.encoder
        self._recurrence = encoder.recurrence
        self._num_layers = len(encoder.recurrence.layers)
        self._first: Cell = encoder.recurrence.layers[0]
        self._is_single_layer = self._num_layers == 1 and isinstance(
            encoder.recurrence.norms[0], nn.Identity
        )
        has_blocks = len(encoder.recurrence.blocks) > 0  # The first layer reads a normalized token.
        self._project: nn.Module = model.projection
        if not isinstance(model.output_adapter, nn.Identity):
            self._project = nn.Sequential(model.output_adapter, model.projection)
        device = next(model.parameters()).device
        embedded = encoder.embedding(torch.arange(model.vocabulary_size, device=device))
        self._ngrams = encoder.ngrams
        self._is_projected = (
            not has_blocks
            and self._ngrams is None
            and (
                max_table_size is None
                or self._first.project(embedded[:1]).shape[-1] * len(embedded) <= max_table_size
            )
        )
        self._rows: Tensor = self._first.project(embedded) if self._is_projected else embedded

    def __call__(self, ids: Tensor, states: States) -> tuple[Tensor, States]:
        """Read the next token of each sequence.

        Args:
            ids: Ids of the tokens, (batch,).
            states: State of each layer before the tokens.

        Returns:
            Logits of the tokens that follow, (batch, vocabulary), and the states after the tokens.
        """
        features, states = self.advance(ids, states)
        return self.project(features), states

    def advance(self, ids: Tensor, states: States) -> tuple[Tensor, States]:
        """Read the next token of each sequence; arguments as for a call.

        Returns:
            Features, (batch, hidden), and the states after the tokens.
        """
        rows = self._rows[ids]
        layers, last = states[: self._num_layers], states[self._num_layers :]
        if self._ngrams is not None:
            more, after = self._ngrams(ids[None], last[0][0])
            rows = torch.cat([rows, more[0]], dim=-1)
            last = ((after,),)
        if self._is_single_layer:  # Faster: most models have nothing around their only layer.
            output, state = self._step(self._first, rows, layers[0])
            return output, (state, *last)
        features, layers = self._recurrence(rows[None], layers, run=self._run)
        return features[0], layers + last

    def project(self, features: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), of features."""
        logits: Tensor = self._project(features)
        return logits

    def _run(self, cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        output, state = self._step(cell, x[0], state)
        return output[None], state

    def _step(self, cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        projected = x if self._is_projected and cell is self._first else cell.project(x)
        state = cell.step(projected, state)
        return cell.output(state), state
