"""Log-probabilities of a text's tokens by a model whose weights stay fixed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from charlm.config.corpus import Mode
from charlm.data.tokenizer import Ids
from charlm.data.windows.directions import reading_order
from charlm.data.windows.scoring import windows_to_score
from charlm.errors import CharlmError, CorpusError
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import target_log_probabilities
from charlm.trained_model import TrainedModel

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class StaticModel:
    """A model with fixed weights, and how its predictions are computed.

    Attributes:
        model: Model on `device`, in evaluation mode.
        mode: `stream`: the state is carried through the whole text; `records`: each record starts
            from the initial state.
        device: Device of the model.
        precision: Type in which matrix products are computed.
        temperature: Divisor of the logits.
    """

    model: LanguageModel
    mode: Mode
    device: torch.device
    precision: torch.dtype = torch.float32
    temperature: float = 1.0

    def log_probabilities(self, ids: Ids) -> Floats:
        """Return log p of each token in the order of the text, (tokens,); each is predicted once.

        A backward model gives each token its probability after the tokens that follow it in the
        text. In records mode, tokens after the last <EOS> belong to no record and have NaN.

        Raises:
            CharlmError: The model reads in both directions, so that a token has two probabilities.
        """
        require_one_probability(self.model)
        order = reading_order(ids, self.model.direction, mode=self.mode)
        log_p = np.empty(len(ids))
        log_p[order] = self.log_probabilities_as_read(np.asarray(ids)[order])
        return log_p

    def log_probabilities_as_read(self, ids: Ids) -> Floats:
        """Return log p of each token of a text that is in reading order already, (tokens,)."""
        log_p = np.full(len(ids), np.nan)
        for positions, window_log_p in self._windows(ids):
            is_target = positions >= 0
            log_p[positions[is_target]] = window_log_p[is_target]
        return log_p

    @torch.inference_mode()
    def _windows(self, ids: Ids) -> Iterator[tuple[Integers, Floats]]:
        """Yield the position of each target of a window, -1 for padding, and its log p."""
        states = None
        for window in windows_to_score(ids, mode=self.mode):
            log_p, states = target_log_probabilities(
                self.model,
                window.inputs.to(self.device),
                window.targets.to(self.device),
                None if window.resets_state else states,
                precision=self.precision,
                temperature=self.temperature,
            )
            yield window.positions.numpy(), log_p.double().cpu().numpy()


def of_trained(trained: TrainedModel) -> StaticModel:
    """Return a trained model in fp32 at temperature 1."""
    return StaticModel(trained.model, trained.mode, trained.device)


def require_tokens(ids: Ids) -> None:
    """Raise CorpusError if a text to score has no token."""
    if len(ids) == 0:
        raise CorpusError("the text to score has no token; give a text that is not empty")


def require_one_probability(model: LanguageModel, run: Path | None = None) -> None:
    """Raise CharlmError if a model gives each token two probabilities, one for each direction.

    Args:
        model: The model.
        run: Its run folder, which the message names.
    """
    if model.direction == "both":
        place = f"{run}: " if run else ""
        raise CharlmError(
            f"{place}model.direction: both gives each token two probabilities, one from each side, "
            "so that single tokens have no score; score whole texts, or train with "
            "model.direction=forward"
        )
