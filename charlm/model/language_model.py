"""Encoder and projection: ids and states to logits and the next states."""

from collections.abc import Iterator
from copy import copy
from typing import cast

from torch import Tensor, nn

from charlm.config.model import Model as ModelSection
from charlm.model.dropout import Dropout
from charlm.model.embedding import OneHot
from charlm.model.encoder import Encoder
from charlm.model.projection import make_projection
from charlm.model.recurrence import Run, States, run
from charlm.storage.tensors import tensors_checksum

PADDING = -100  # A target that is not predicted: the index that torch's cross-entropy ignores.
# Beginning of a parameter's name in the module → beginning of its name in files.
_NAMES_IN_FILES = {
    "encoder.": "",
    "output_adapter.": "bridge.",
    "decoder.encoder.": "decoder.",
    "decoder.output_adapter.": "decoder.bridge.",
}


class LanguageModel(nn.Module):
    """A recurrent language model. Its state is explicit: an argument and a result.

    Attributes:
        vocabulary_size: Number of ids.
        direction: Direction of reading. `forward`; `backward`: the sequences it is given are in
            reversed order; `both`: two recurrences share embedding and projection, and the second
            half of a batch, reversed sequences, belongs to the backward one.
        encoder: Embedding and recurrence.
        output_adapter: Linear map from the features to the width of a tied matrix; the identity
            where the widths are equal.
        projection: Linear map, mixture or adaptive softmax over the vocabulary.
    """

    def __init__(self, section: ModelSection, vocabulary_size: int) -> None:
        """Create a model with initial weights from torch's global generator.

        Args:
            section: Sizes and options of the network.
            vocabulary_size: Number of ids.
        """
        super().__init__()
        self.direction = section.direction
        self.vocabulary_size = vocabulary_size
        self.encoder = Encoder(section, vocabulary_size)
        embedding_size, hidden_size = self.encoder.embedding_size, self.encoder.hidden_size
        # A tied matrix is as wide as the embedding; a mixture maps to that width by itself.
        is_adapted = section.tied and hidden_size != embedding_size and section.mixture == 1
        self.output_adapter = (
            nn.Linear(hidden_size, embedding_size, bias=False) if is_adapted else nn.Identity()
        )
        self.projection = make_projection(
            section, embedding_size if is_adapted else hidden_size, embedding_size, vocabulary_size
        )
        self.output_dropout = Dropout(
            section.output_dropout, whole_window=section.dropout_mask == "window"
        )
        if section.tied and not isinstance(self.encoder.embedding, OneHot):
            # An embedding of unit variance would make the logits far too large at the start.
            nn.init.normal_(self.encoder.embedding.weight, std=embedding_size**-0.5)
            cast(nn.Linear, self.projection).weight = self.encoder.embedding.weight

    def forward(
        self, ids: Tensor, states: States | None = None, *, run: Run = run
    ) -> tuple[Tensor, States]:
        """Predict the token after each token of a window.

        Args:
            ids: Ids of the window, (time, batch).
            states: State of each layer before the window; None for the initial states.
            run: Function that runs a cell over the window.

        Returns:
            Logits, (time, batch, vocabulary), and the states after the window.
        """
        features, states = self.encoder(ids, states, run=run)
        logits: Tensor = self.projection(self.adapt(features))
        return logits, states

    def read(
        self, inputs: Tensor, targets: Tensor, states: States | None = None
    ) -> tuple[Tensor, Tensor, States]:
        """Read a window; return features with the targets that they predict.

        Args:
            inputs: Ids of the window, (time, batch).
            targets: The id that follows each of them, or `PADDING`, (time, batch).
            states: State of each layer before the window; None for the initial states.

        Returns:
            Features, (time, batch, hidden), targets, (time, batch), and the states after the
            window. A model of whole records may return them for a part of the window.
        """
        features, states = self.encoder(inputs, states)
        return features, targets, states

    def adapt(self, features: Tensor) -> Tensor:
        """Return the input of the projection: (time, batch, hidden) → (time, batch, width)."""
        adapted: Tensor = self.output_dropout(self.output_adapter(features))
        return adapted

    def initial_states(self, batch_size: int) -> States:
        """Return the states before the first token; see `Encoder.initial_states`."""
        return self.encoder.initial_states(batch_size)

    def split_directions(self) -> list["LanguageModel"]:
        """Return one model per direction, each with a single recurrence and these weights."""
        models = []
        for recurrence in self.encoder.recurrences:
            encoder = copy(self.encoder)
            encoder._modules = self.encoder._modules | {
                "recurrence": recurrence,
                "backward_recurrence": None,
            }
            model = copy(self)
            model._modules = self._modules | {"encoder": encoder}
            models.append(model)
        return models


def named_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield each parameter with its name in files; a shared parameter comes once.

    Run folders, compressed texts and saved states of generation contain or hash these names, which
    are older than the modules `encoder` and `output_adapter`. They must not change.
    """
    for name, parameter in model.named_parameters():
        for module_prefix, file_prefix in _NAMES_IN_FILES.items():
            if name.startswith(module_prefix):
                name = file_prefix + name.removeprefix(module_prefix)
        yield name, parameter


def weights_checksum(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights in hexadecimal: names, types, shapes and values."""
    return tensors_checksum(dict(named_weights(model)))


def detach(states: States) -> States:
    """Return the states without their history of operations."""
    return tuple(tuple(tensor.detach() for tensor in state) for state in states)


def count_parameters(model: nn.Module) -> list[tuple[str, tuple[int, ...], int]]:
    """Return name, shape and size of each parameter; a shared parameter counts once."""
    return [
        (name, tuple(parameter.shape), parameter.numel())
        for name, parameter in named_weights(model)
    ]
