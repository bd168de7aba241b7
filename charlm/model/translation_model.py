"""Encoder of a source and decoder of its target: the model of the task `translate`."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from charlm.config.model import Model as ModelSection
from charlm.config.task import Task as TaskSection
from charlm.model.encoder import Encoder
from charlm.model.heads.additive_attention import AdditiveAttention, Memory
from charlm.model.heads.token_label import align
from charlm.model.language_model import PADDING, LanguageModel
from charlm.model.lengths import run_to
from charlm.model.recurrence import States

_EOS = 0


class Pairs(NamedTuple):
    """Sources and targets of a batch, each with its own time.

    Attributes:
        source: <EOS> and the ids of each source, (source time, batch); <EOS> after its end.
        lengths: Number of ids of each source, <EOS> included, (batch,).
        inputs: Inputs of the decoder, the separator and the ids of the target, (target time,
            batch).
        targets: The id that follows each of them; padding after the closing <EOS>.
    """

    source: Tensor
    lengths: Tensor
    inputs: Tensor
    targets: Tensor


class Source(NamedTuple):
    """A batch of sources that was read.

    Attributes:
        states: States that the decoder starts from.
        memory: What the decoder attends to; None without attention.
    """

    states: States
    memory: Memory | None


class TranslationModel(nn.Module):
    """A network that reads a source, and a second one that writes its target.

    Sutskever et al. 2014 (arXiv:1409.3215), section 2: the decoder is a language model of targets
    that starts from the last state of the encoder. Its first input is the separator. A source that
    is read in both directions has two last states; a linear map for each tensor of a state (the
    bridge) joins them.

    Attributes:
        vocabulary_size: Number of ids.
        direction: Direction in which batches have the records: `forward`. The encoder reverses the
            sources itself.
        encoder: Embedding and recurrence of sources, with the names in files of a language model's.
        decoder: Language model of targets.
        bridge: Map from the last states of both directions to those of the decoder, for each layer
            and tensor; empty if there is one direction.
        attention: Attention of the decoder to the source, or None.
    """

    direction = "forward"

    def __init__(self, section: ModelSection, vocabulary_size: int, task: TaskSection) -> None:
        """Create a model with initial weights from torch's global generator.

        Args:
            section: Sizes and options of the network; both sides have the same.
            vocabulary_size: Number of ids.
            task: Options of the task.
        """
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.encoder = Encoder(section, vocabulary_size)
        one_way = {"direction": "forward", "initial_state": "zero"}
        self.decoder = LanguageModel(section.model_copy(update=one_way), vocabulary_size)
        num_directions = len(self.encoder.recurrences)
        self.bridge = nn.ModuleList(
            nn.ModuleList(
                nn.Linear(2 * cell.hidden_size, cell.hidden_size)
                for _ in range(cell.num_state_tensors * (num_directions - 1))
            )
            for cell in self.encoder.recurrence.layers
        )
        width = self.encoder.hidden_size
        self.attention = (
            AdditiveAttention(width, num_directions * width, width)
            if task.attention == "additive"
            else None
        )

    @property
    def projection(self) -> nn.Module:
        """The projection of the decoder."""
        return self.decoder.projection

    def read(
        self, inputs: Tensor, targets: Tensor, states: States | None = None
    ) -> tuple[Tensor, Tensor, States]:
        """Read a batch of whole records; see `LanguageModel.read`.

        Args:
            inputs: Ids of the pairs, (time, batch): <EOS>, the source, the separator, the target.
            targets: The id that follows each input; padding in the source.
            states: Not used: every source is read from the initial states.

        Returns:
            Features of the targets, (target time, batch, hidden), the targets, (target time,
            batch), and the states of the decoder after them.
        """
        pairs = split_pairs(inputs, targets)
        source = self.read_source(pairs.source, pairs.lengths)
        features, after = self.decoder.encoder(pairs.inputs, source.states)
        return self.attend(features, source), pairs.targets, after

    def read_source(self, ids: Tensor, lengths: Tensor) -> Source:
        """Read sources.

        Args:
            ids: As `Pairs.source`.
            lengths: As `Pairs.lengths`.
        """
        num_directions = len(self.encoder.recurrences)
        columns = ids if num_directions == 1 else torch.cat([ids, _reverse(ids, lengths)], dim=1)
        features, states = self.encoder(columns, run=run_to(lengths))
        memory = None
        if self.attention is not None:
            forward, *backward = features.chunk(num_directions, dim=1)
            joined = torch.cat([forward, *(align(part, lengths) for part in backward)], dim=-1)
            memory = self.attention.remember(joined, is_source_token(lengths, len(ids)))
        return Source(self._joined(states) + self._states_of_inputs(ids.shape[1]), memory)

    def attend(self, features: Tensor, source: Source) -> Tensor:
        """Return features of targets, (target time, batch, hidden), with what they attend to."""
        if self.attention is None or source.memory is None:
            return features
        attended: Tensor = self.attention(features, source.memory)
        return attended

    def attention_weights(self, features: Tensor, source: Source) -> Tensor:
        """Return the weights of the positions of a source, (target time, source time, batch).

        Raises:
            ValueError: The model has no attention.
        """
        if self.attention is None or source.memory is None:
            raise ValueError("the model has no attention")
        return self.attention.weights(features, source.memory)

    def adapt(self, features: Tensor) -> Tensor:
        """Return the input of the projection; see `LanguageModel.adapt`."""
        return self.decoder.adapt(features)

    def initial_states(self, batch_size: int) -> States:
        """Return states of the decoder, in the shape of those that `read` returns."""
        return self.decoder.initial_states(batch_size)

    def _states_of_inputs(self, batch_size: int) -> States:
        """Return the initial states of the decoder that belong to no layer: those of n-grams."""
        return self.decoder.initial_states(batch_size)[len(self.bridge) :]

    def _joined(self, states: States) -> States:
        """Return the states that the layers of the decoder start from.

        Args:
            states: States of the encoder, of each direction those of the layers first.
        """
        num_layers, num_states = len(self.bridge), len(states) // len(self.encoder.recurrences)
        if len(self.encoder.recurrences) == 1:
            return states[:num_layers]
        return tuple(
            tuple(
                linear(torch.cat([forward, backward], dim=-1)).to(forward.dtype)
                for linear, forward, backward in zip(
                    cast(nn.ModuleList, maps),
                    states[layer],
                    states[num_states + layer],
                    strict=True,
                )
            )
            for layer, maps in enumerate(self.bridge)
        )


TokenModel = LanguageModel | TranslationModel  # A model that predicts tokens.


def split_pairs(inputs: Tensor, targets: Tensor) -> Pairs:
    """Divide a batch of records into sources and targets.

    A column without a target, which is padding, becomes an empty source and an empty target.

    Args:
        inputs: As for `TranslationModel.read`.
        targets: As for `TranslationModel.read`.
    """
    is_target = targets != PADDING
    lengths = is_target.int().argmax(dim=0).clamp_min(1)
    counts = is_target.sum(dim=0)
    time = torch.arange(len(inputs), device=inputs.device)[:, None]
    source = inputs.masked_fill(time >= lengths, _EOS)[: int(lengths.max())]
    time = time[: max(1, int(counts.max()))]
    at = (lengths + time).clamp_max(len(inputs) - 1)
    return Pairs(
        source=source,
        lengths=lengths,
        inputs=inputs.gather(0, at).masked_fill(time >= counts, _EOS),
        targets=targets.gather(0, at).masked_fill(time >= counts, PADDING),
    )


def is_source_token(lengths: Tensor, time: int) -> Tensor:
    """Return whether a position has a token of the source: no <EOS>, unless there is nothing else.

    Args:
        lengths: As `Pairs.lengths`.
        time: Number of positions.

    Returns:
        Truth values, (time, batch).
    """
    at = torch.arange(time, device=lengths.device)[:, None]
    return ((at > 0) | (lengths == 1)) & (at < lengths)


def _reverse(ids: Tensor, lengths: Tensor) -> Tensor:
    """Return sources from their last id to their first; <EOS> stays before them."""
    time = torch.arange(len(ids), device=ids.device)[:, None]
    at = torch.where((time > 0) & (time < lengths), lengths - time, 0)
    return ids.gather(0, at)
