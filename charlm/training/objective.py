"""The training objective: what the loop needs of a model, and the objectives of the tasks."""

from abc import ABC
from functools import partial
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn import functional

from charlm.config.training import Training as TrainingSection
from charlm.data.windows.window import PADDING
from charlm.model.any_model import AnyModel
from charlm.model.encoder import Encoder
from charlm.model.label_model import LabelModel
from charlm.model.language_model import detach
from charlm.model.projection import AdaptiveSoftmax
from charlm.model.recurrence import States
from charlm.model.translation_model import TokenModel, TranslationModel
from charlm.training.devices import Hardware
from charlm.training.loss import regularization, summed_cross_entropy
from charlm.training.rows import allow_sparse_gradients


class ObjectiveValue(NamedTuple):
    """The objective of some columns of a window.

    Attributes:
        objective: J, a scalar with a gradient.
        nats: Cross-entropy summed over the predicted tokens, a scalar without a gradient.
        states: States after the window, without a gradient.
    """

    objective: Tensor
    nats: Tensor
    states: States


class Objective(Protocol):
    """A model and the objective J of its task: all that `train` knows of them.

    An implementation is an `nn.Module`, so that several processes can share it (`Group.wrap`).
    """

    @property
    def model(self) -> nn.Module:
        """The model whose parameters are trained."""

    @property
    def hardware(self) -> Hardware:
        """Device and precision of the model."""

    @property
    def num_networks(self) -> int:
        """Number of networks whose columns stand side by side in a batch: 2 for two directions."""

    @property
    def uses_every_parameter(self) -> bool:
        """Whether every parameter has a gradient after every window."""

    def initial_states(self, batch_size: int) -> States:
        """Return the states before the first token of `batch_size` columns."""

    def __call__(
        self,
        inputs: Tensor,
        targets: Tensor,
        states: States | None,
        batch_size: float,
    ) -> ObjectiveValue:
        """Compute J for some columns of a window.

        Args:
            inputs: Ids, (time, columns).
            targets: Targets of the ids, (time, columns).
            states: States before the window; None for the initial states.
            batch_size: Number of columns that J is a mean over; these columns are a part of them.
        """


class _ModelObjective(nn.Module, ABC):
    """What the objectives of all models have in common.

    Attributes:
        model: The model, on the device of `hardware`.
        section: Label smoothing and regularization of activations.
        hardware: Device and precision of the model.
    """

    def __init__(self, model: AnyModel, section: TrainingSection, hardware: Hardware) -> None:
        """Create the objective of a model; see the attributes of the class."""
        super().__init__()
        self.model = model
        self.section = section
        self.hardware = hardware

    @property
    def num_networks(self) -> int:
        """Number of directions that a batch has; an encoder reverses its sources itself."""
        return 2 if self.model.direction == "both" else 1

    def initial_states(self, batch_size: int) -> States:
        """Return the states before the first token."""
        return self.model.initial_states(batch_size)


class LanguageModelObjective(_ModelObjective):
    """J of a model of tokens: cross-entropy summed over time, and the regularization."""

    model: TokenModel

    @property
    def uses_every_parameter(self) -> bool:
        """Whether every parameter has a gradient after every window.

        The matrices of rare words in an adaptive softmax and learned initial states have none where
        a window has no rare word, or does not start a text. Without attention, a decoder sees the
        states of its encoder, and neither the last norm nor the last block.
        """
        model = self.model
        has_unused = isinstance(model, TranslationModel) and model.attention is None
        is_sometimes_unused = isinstance(model.projection, AdaptiveSoftmax)
        return not (has_unused or is_sometimes_unused or _learns_states(model.encoder))

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        states: States | None,
        batch_size: float,
    ) -> ObjectiveValue:
        """Compute J for some columns of a window; see `Objective`."""
        with self.hardware.autocast():
            features, targets, states = self.model.read(inputs, targets, states)
            projected = self.model.adapt(features)
            objective, nats = summed_cross_entropy(
                projected,
                targets,
                projection=self.model.projection,
                smoothing=self.section.label_smoothing,
                batch_size=batch_size,
            )
            penalty = regularization(self.section, features, projected, targets != PADDING)
            objective = objective + penalty * (targets.shape[1] / batch_size)
        # Gradients stop at the window's edge: truncated BPTT (Williams and Peng 1990).
        return ObjectiveValue(objective=objective, nats=nats, states=detach(states))


class LabelObjective(_ModelObjective):
    """J of a model of labels: cross-entropy summed over the labels of a record."""

    model: LabelModel

    @property
    def uses_every_parameter(self) -> bool:
        """Whether every parameter has a gradient after every window."""
        return not _learns_states(self.model.encoder)

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        states: States | None,
        batch_size: float,
    ) -> ObjectiveValue:
        """Compute J for some records; see `Objective`.

        The columns of both directions are one record, so that J is a mean over half of them.
        """
        with self.hardware.autocast():
            logits, labels, states = self.model(inputs, targets, states)
        cross_entropy = partial(
            functional.cross_entropy, logits.float(), labels, ignore_index=PADDING, reduction="sum"
        )
        nats = cross_entropy()
        smoothing = self.section.label_smoothing
        smoothed = cross_entropy(label_smoothing=smoothing) if smoothing else nats
        return ObjectiveValue(
            objective=smoothed / (batch_size / self.num_networks),
            nats=nats.detach(),
            states=detach(states),
        )


def _learns_states(encoder: Encoder) -> bool:
    """Return whether initial states are learned."""
    layers = (layer for each in encoder.recurrences for layer in each.learned_states)
    return any(len(layer) for layer in layers)


def make_objective(model: AnyModel, section: TrainingSection, hardware: Hardware) -> Objective:
    """Return the objective of a model, whose gradients are sparse where that is faster."""
    allow_sparse_gradients(model, allowed=hardware.device.type == "cpu")
    if isinstance(model, LabelModel):
        return LabelObjective(model, section, hardware)
    return LanguageModelObjective(model, section, hardware)
