"""Untrained models of a few units, and random texts, for tests of evaluation."""

import numpy as np
import torch

from charlm.config.model import Model
from charlm.data.tokenizer import EOS
from charlm.model.language_model import LanguageModel

CPU = torch.device("cpu")
VOCABULARY = 8


def make_model(
    direction: str = "forward",
    *,
    sharpness: float = 4,
    vocabulary_size: int = VOCABULARY,
    **options: object,
) -> LanguageModel:
    """Return a model in evaluation mode, always with the same weights."""
    torch.manual_seed(1)
    section = Model(**{"hidden_size": 8, "embedding_size": 4, "direction": direction} | options)
    model = LanguageModel(section, vocabulary_size).eval()
    if sharpness != 1:  # So that the tokens before a token matter.
        with torch.no_grad():
            model.projection.weight *= sharpness
    return model


def random_ids(tokens: int, seed: int = 1) -> np.ndarray:
    """Return a text without <EOS> and <UNK>."""
    return np.random.default_rng(seed).integers(2, VOCABULARY, tokens).astype(np.uint8)


def random_records(records: int) -> np.ndarray:
    """Return records of 0 to 11 tokens, each with its <EOS>."""
    return np.concatenate(
        [np.append(random_ids(5 * number % 12, number), EOS) for number in range(records)]
    ).astype(np.uint8)


def log_p_at_once(model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """Return log p of each token of a text that the model reads in one window."""
    targets = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
        logits, _ = model(torch.cat([torch.tensor([EOS]), targets[:-1]])[:, None])
    return logits[:, 0].double().log_softmax(dim=-1).gather(1, targets[:, None])[:, 0].numpy()
