"""The weights that a training starts from: random ones, with vectors, or those of an ancestor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charlm.data.tokens import count_ids
from charlm.data.vectors import read_vectors
from charlm.model.embedding import put_vectors
from charlm.model.language_model import LanguageModel
from charlm.model.translation_model import TranslationModel
from charlm.runs.checkpoint import load_weights, weights_of
from charlm.runs.experiment import Experiment
from charlm.runs.old_text import old_text_or_notice
from charlm.runs.warm_start import Ancestor, growth_line
from charlm.storage.tensors import Tensors


def with_initial_weights(experiment: Experiment, ancestor: Ancestor | None) -> Experiment:
    """Return a training with random weights that starts from those of an ancestor, if there is one.

    Without an ancestor, the pretrained vectors of the configuration are put into the embedding.

    Raises:
        CharlmError: The vectors, or an ancestor's text that is to be replayed, cannot be read.
    """
    if ancestor is None:
        return with_old_text(_with_vectors(experiment), None)
    return _with_ancestor(experiment, ancestor)


def with_old_text(experiment: Experiment, facts: dict[str, Any] | None) -> Experiment:
    """Add the text of the ancestor that `facts` describe, or a notice if it cannot be read."""
    if not isinstance(experiment.model, LanguageModel):  # The model predicts no whole text.
        return replace(experiment, ancestor=facts)
    old_text, notices = old_text_or_notice(facts, experiment.config, experiment.tokenizer)
    return replace(experiment, ancestor=facts, old_text=old_text, notices=notices)


def _with_vectors(experiment: Experiment) -> Experiment:
    """Put pretrained vectors, if there are any, into the embedding; make their path absolute."""
    model, config = experiment.model, experiment.config
    if config.model.vectors is None:
        return experiment
    path, size = Path(config.model.vectors), config.model.embedding_size
    vectors = read_vectors(path, experiment.tokenizer, size=size)
    for side in [model, *([model.decoder] if isinstance(model, TranslationModel) else [])]:
        embedding = side.encoder.embedding
        if not isinstance(embedding, nn.Embedding):
            return experiment
        put_vectors(embedding, torch.from_numpy(vectors.rows), torch.from_numpy(vectors.found))
    section = config.model.model_copy(update={"vectors": str(path.absolute())})
    return replace(
        experiment,
        config=config.model_copy(update={"model": section}),
        vectors_fraction=vectors.fraction_found,
    )


def _with_ancestor(experiment: Experiment, ancestor: Ancestor) -> Experiment:
    """Put the weights of an ancestor into the model, and read its text."""
    model = experiment.model
    tokenizer = experiment.tokenizer
    counts = count_ids(experiment.tokens["train"].ids, tokenizer.vocabulary_size)
    weights = ancestor.weights_for(tokenizer, counts)
    if isinstance(model, TranslationModel):
        load_weights(model.decoder, _completed(weights, model.decoder), ancestor.folder)
    if not isinstance(model, LanguageModel):
        weights = _completed(weights, model)
    load_weights(model, weights, ancestor.folder)
    facts = ancestor.facts()
    experiment = with_old_text(experiment, facts)
    start_loss = None
    if experiment.old_text is not None and isinstance(model, LanguageModel):
        start_loss = experiment.old_text.loss_nats(model, experiment.hardware)
    line = growth_line(ancestor, tokenizer, counts)
    return replace(
        experiment,
        ancestor=facts | {"start_loss_nats": start_loss},
        notices=(line, *experiment.notices),
    )


def _completed(weights: Tensors, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model, those of its ancestor where it has weights of these names."""
    own = weights_of(model)
    return own | {name: weights[name] for name in own.keys() & weights.keys()}
