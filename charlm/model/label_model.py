"""Encoder and a linear layer over labels: a model of the tasks `classify` and `tag`."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from charlm.config.model import Model as ModelSection
from charlm.config.task import Task as TaskSection
from charlm.model.dropout import Dropout
from charlm.model.encoder import Encoder
from charlm.model.heads.sequence_label import pool
from charlm.model.heads.token_label import align
from charlm.model.language_model import PADDING
from charlm.model.log_probabilities import Prediction, scoring
from charlm.model.recurrence import States


class LabelHead(NamedTuple):
    """What a model of labels is made for.

    Attributes:
        task: Kind and options of the task.
        num_labels: Number of labels.
    """

    task: TaskSection
    num_labels: int


class LabelModel(nn.Module):
    """A recurrent network that labels sequences or their tokens.

    Sequences are read whole. The target of a sequence stands at its last position, and that of a
    token at the position after which the token has been read; other positions have none. So the
    targets also state the length of each sequence.

    Attributes:
        vocabulary_size: Number of ids.
        direction: `forward`, or `both`: the second half of a batch has the reversed sequences, and
            the features of both directions are joined.
        encoder: Embedding and recurrence, with the names in files of a language model's.
        head: Linear map from the features to the labels.
    """

    def __init__(self, section: ModelSection, vocabulary_size: int, head: LabelHead) -> None:
        """Create a model with initial weights from torch's global generator.

        Args:
            section: Sizes and options of the network.
            vocabulary_size: Number of ids.
            head: Task and number of labels.
        """
        super().__init__()
        self.direction = section.direction
        self.vocabulary_size = vocabulary_size
        self._task = head.task
        self.encoder = Encoder(section, vocabulary_size)
        self.output_dropout = Dropout(
            section.output_dropout, whole_window=section.dropout_mask == "window"
        )
        width = self.encoder.hidden_size * len(self.encoder.recurrences)
        self.head = nn.Linear(width, head.num_labels)

    def forward(
        self, ids: Tensor, targets: Tensor, states: States | None = None
    ) -> tuple[Tensor, Tensor, States]:
        """Compute the logits of labels.

        Args:
            ids: Ids of whole sequences, (time, columns); in direction `both`, the second half of
                the columns has the reversed sequences.
            targets: Targets, (time, columns); those of reversed sequences are not used.
            states: State of each layer before the sequences; None for the initial states.

        Returns:
            Logits, (rows, labels), their targets, (rows,), and the states after the sequences. A
            row is a sequence, or a position of a sequence.
        """
        features, states = self.encoder(ids, states)
        directions = features.chunk(len(self.encoder.recurrences), dim=1)
        targets = targets[:, : directions[0].shape[1]]
        positions = torch.arange(1, len(targets) + 1, device=targets.device)[:, None]
        lengths = ((targets != PADDING) * positions).amax(dim=0)
        if self._task.kind == "classify":
            is_read = positions <= lengths.clamp_min(1)
            parts = [pool(part, is_read, self._task.pooling) for part in directions]
            rows = self.output_dropout(torch.cat(parts, dim=-1)[None])[0]
            return self.head(rows), targets.amax(dim=0), states
        aligned = [directions[0], *(align(part, lengths) for part in directions[1:])]
        joined = self.output_dropout(torch.cat(aligned, dim=-1))
        return self.head(joined.flatten(0, 1)), targets.flatten(), states

    def initial_states(self, batch_size: int) -> States:
        """Return the states before the first token; see `Encoder.initial_states`."""
        return self.encoder.initial_states(batch_size)


def predict_labels(
    model: LabelModel,
    inputs: Tensor,
    targets: Tensor,
    *,
    precision: torch.dtype = torch.float32,
) -> Prediction:
    """Predict the labels of whole sequences; arguments as for `LabelModel.forward`."""
    with scoring(inputs.device, precision):
        logits, labels, _ = model(inputs, targets)
    return Prediction(logits.float(), labels)
