"""Reading a prompt in windows of bounded size, with or without its log-probabilities."""

from collections.abc import Sequence

import torch

from charlm.data.tokenizer import EOS
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import predict_window
from charlm.model.recurrence import States
from charlm.sampling.drawing import alternatives

_WINDOW = 1024  # Tokens that are read in one forward pass.


class PromptReader:
    """A prompt that a model reads, a window per call.

    Attributes:
        states: States after what was read, of a batch of one.
        log_probabilities: Log-probability in nats of each token after the first one, if the prompt
            is scored.
        alternatives: For each of them, the log-probabilities of the most probable tokens and of the
            token itself, by id, if any are asked for.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Sequence[int],
        states: States | None = None,
        *,
        num_alternatives: int | None = None,
        window: int = _WINDOW,
    ) -> None:
        """Begin before the first token.

        Args:
            model: Model in evaluation mode.
            ids: Ids; the last one is not read, only predicted.
            states: States before them, of a batch of one; None for the initial states.
            num_alternatives: None not to score the prompt; else the number of most probable tokens
                to keep.
            window: Number of tokens that are read at once.
        """
        self.states = model.initial_states(1) if states is None else states
        self.log_probabilities: list[float] = []
        self.alternatives: list[dict[int, float]] = []
        self._model = model
        self._ids = torch.tensor(ids, device=next(model.parameters()).device)[:, None]
        self._num_alternatives = num_alternatives
        self._window = window
        self._position = 0

    @property
    def is_finished(self) -> bool:
        """Whether all ids but the last have been read."""
        return self._position >= len(self._ids) - 1

    def forget(self) -> None:
        """Remove the log-probabilities."""
        self.log_probabilities = []
        self.alternatives = []

    @torch.inference_mode()
    def read_window(self) -> None:
        """Read the next tokens."""
        end = min(self._position + self._window, len(self._ids) - 1)
        inputs = self._ids[self._position : end]
        targets = self._ids[self._position + 1 : end + 1]
        self._position = end
        if self._num_alternatives is None:
            _, self.states = self._model.encoder(inputs, self.states)
            return
        predictions, self.states = predict_window(self._model, inputs, targets, self.states)
        for logits, ids in predictions:
            log_p = logits.log_softmax(dim=-1)
            self.log_probabilities += log_p.gather(-1, ids[:, None])[:, 0].tolist()
            if self._num_alternatives:
                self.alternatives += alternatives(log_p, ids, self._num_alternatives)


def read_once(model: LanguageModel, ids: Sequence[int], states: States | None = None) -> States:
    """Read ids.

    Args:
        model: Model in evaluation mode.
        ids: Ids to read.
        states: States before them, of a batch of one; None for the initial states.

    Returns:
        States after them, of a batch of one.
    """
    reader = PromptReader(model, [*ids, EOS], states)  # The last one is not read.
    while not reader.is_finished:
        reader.read_window()
    return reader.states


def expand(states: States, batch: int) -> States:
    """Return states of a batch of one as those of a batch of equal sequences."""
    return tuple(
        tuple(part.expand(batch, *part.shape[1:]).contiguous() for part in state)
        for state in states
    )
