"""The training objective J of a window."""

import torch
from torch import Tensor, nn

from charlm.config.schema import Training as TrainingSection
from charlm.model.language_model import LanguageModel, detach
from charlm.model.projection import AdaptiveSoftmax
from charlm.model.recurrence import States
from charlm.training.devices import autocast
from charlm.training.loss import regularization, summed_loss


class Objective(nn.Module):
    """J of a window: what is differentiated."""

    def __init__(
        self,
        model: LanguageModel,
        section: TrainingSection,
        *,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        """Take a model.

        Args:
            model: On `device`.
            section: Label smoothing and the regularization of activations.
            device: Where to compute.
            precision: What matrix products are computed in.
        """
        super().__init__()
        self.model, self.section, self.device, self.precision = model, section, device, precision

    @property
    def uses_every_parameter(self) -> bool:
        """Whether each has a gradient after every window: rare words' matrices, and learnt states, have not."""
        learnt = any(
            len(layer)
            for network in self.model.encoder.recurrences
            for layer in network.learned_states
        )
        return not learnt and not isinstance(self.model.projection, AdaptiveSoftmax)

    def forward(
        self, inputs: Tensor, targets: Tensor, states: States | None, columns: float, counted: float
    ) -> tuple[Tensor, Tensor, States]:
        """Return J, the window's nats, and the states after it.

        Args:
            inputs: Ids, (time, batch).
            targets: The ids to be predicted, (time, batch).
            states: Before the window.
            columns: Of the batch that J is averaged over, of which these are a part.
            counted: How many of these columns count as such.
        """
        with autocast(self.device, self.precision):
            features, states = self.model.encoder(inputs, states)
            read = self.model.adapt(features)
            objective, nats = summed_loss(
                read,
                targets,
                projection=self.model.projection,
                smoothing=self.section.label_smoothing,
                columns=columns,
            )
            objective = objective + regularization(self.section, features, read) * (
                counted / columns
            )
        # Gradients stop at the window's edge: truncated backpropagation through time (Williams and Peng 1990).
        return objective, nats, detach(states)
