"""Weights for a vocabulary with more tokens: what old tokens keep, and what cannot grow."""

import pytest
import torch

from charlm.config.model import Model
from charlm.errors import ConfigError
from charlm.model.growth import NewTokens, grown_weights
from charlm.model.language_model import LanguageModel, named_weights

OLD = 7
NEW = NewTokens(
    relatives=[2, None, 4],
    frequencies=torch.tensor([0.1, 0.2, 0.05]),
    old_frequencies=torch.full((OLD,), 1 / OLD),
)
EXACT = [
    {"cell": cell, "embedding": embedding, "initial_state": initial}
    for cell in ("gru", {"kind": "lstm", "peepholes": ["input"]}, "slstm", "mogrifier_lstm")
    for embedding in ("learned", "one_hot")
    for initial in ("zero", "learned")
] + [
    {"cell": "bag", "embedding": "one_hot"},
    {"cell": "gru", "embedding": "one_hot", "layer_norm": True, "direction": "both"},
    {"cell": "rg_lru", "block": "griffin", "embedding_size": 6},
    {"cell": "bag", "embedding": "one_hot", "ngrams": 3, "ngram_buckets": 20, "ngram_width": 3},
]


def test_old_tokens_keep_their_probabilities_relative_to_one_another_whatever_the_network():
    for options in EXACT:
        section = Model(**{"hidden_size": 6, "num_layers": 2} | options)
        old = random_model(section, OLD)
        grown = LanguageModel(section, OLD + len(NEW.relatives)).double().eval()
        weights = grown_weights(dict(named_weights(old)), section, NEW)
        ids = torch.arange(OLD).repeat(2, 2)
        with torch.no_grad():
            for name, weight in named_weights(grown):
                weight.copy_(weights[name])
            expected, found = old(ids)[0], grown(ids)[0][..., :OLD]
        torch.testing.assert_close(
            found.log_softmax(dim=-1), expected.log_softmax(dim=-1), msg=f"differs: {options}"
        )


@pytest.mark.parametrize(
    "options",
    [
        {"block": "griffin"},
        {"mixture": 2},
        {"cell": "bag", "layer_norm": True},
        {"cell": "bag", "initial_state": "learned"},
    ],
)
def test_a_network_that_is_as_wide_as_the_vocabulary_cannot_get_tokens(options):
    section = Model(**{"embedding": "one_hot", "hidden_size": 6} | options)
    weights = dict(named_weights(random_model(section, OLD)))
    name = list(options)[-1]
    with pytest.raises(ConfigError, match=rf"model\.{name}: .*--from-vocabulary keep"):
        grown_weights(weights, section, NEW)


@torch.no_grad()
def random_model(section, vocabulary_size):
    torch.manual_seed(1)
    model = LanguageModel(section, vocabulary_size).double().eval()
    for parameter in model.parameters():
        parameter.normal_(std=0.4)
    return model
