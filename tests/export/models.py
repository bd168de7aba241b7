"""Models with random weights for every recurrence and option, to compare exports with charlm."""

from pathlib import Path

import torch

from charlm.config.load import load_config
from charlm.data.resolve import resolve
from charlm.data.vocabulary import learn_tokenizer
from charlm.export.verification import Passage
from charlm.model.language_model import LanguageModel
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import Sample, sample
from charlm.trained_model import Origin, TrainedModel

TEXT = "The old owl sat on the mat, and the cat sang.\nA dog slept: 12 hours!\n" * 3
# Options around the recurrence, each with an LSTM.
OPTIONS: dict[str, dict] = {
    "two layers": {"num_layers": 2},
    "layers of different sizes": {"hidden_size": [32, 16]},
    "residual": {"num_layers": 3, "skip": "residual"},
    "sum": {"num_layers": 2, "skip": "sum"},
    "layer norm": {"layer_norm": True},
    "layer norm, residual": {"num_layers": 3, "skip": "residual", "layer_norm": True},
    "layer norm, sum": {"num_layers": 2, "skip": "sum", "layer_norm": True},
    "learned initial state": {"num_layers": 2, "initial_state": "learned"},
    "one-hot": {"embedding": "one_hot"},
    "one-hot, mixture": {"embedding": "one_hot", "mixture": 3},
    "tied": {"tied": True, "embedding_size": 32},
    "tied, adapter": {"tied": True},
    "tied, mixture": {"tied": True, "mixture": 3},
    "mixture": {"mixture": 3},
    "adaptive": {"adaptive_cutoffs": [10, 20]},
    "block": {"block": "griffin", "embedding_size": 24, "num_layers": 2, "cell": "rg_lru"},
    "block of other sizes, tied": {
        "block": "griffin",
        "hidden_size": [32, 16],
        "embedding_size": 24,
        "mlp_expansion": 2,
        "tied": True,
    },
    "block, mixture": {"block": "griffin", "mixture": 3, "cell": "hgrn", "num_layers": 3},
    "block, adaptive": {"block": "griffin", "adaptive_cutoffs": [10], "cell": "bag"},
    "block, n-grams": {
        "block": "griffin",
        "ngrams": 3,
        "ngram_buckets": 64,
        "ngram_width": 4,
        "tied": True,
    },
    "block, one-hot": {"block": "griffin", "embedding": "one_hot", "initial_state": "learned"},
    "backward": {"direction": "backward"},
    "n-grams": {"ngrams": 4, "ngram_buckets": 100, "ngram_width": 8},
    "n-grams, one-hot, two layers": {
        "ngrams": 2,
        "ngram_buckets": 1000,
        "embedding": "one_hot",
        "num_layers": 2,
        "initial_state": "learned",
    },
}


def random_model(
    options: dict | None = None,
    *,
    std: float = 0.15,
    text: str = TEXT,
    overrides: tuple[str, ...] = (),
) -> TrainedModel:
    """Return a model of 32 units whose weights are random, peepholes and biases too."""
    config = load_config(None, overrides)
    section = config.model.model_validate(
        {"hidden_size": 32, "embedding_size": 12} | (options or {})
    )
    resolved = resolve(config.model_copy(update={"model": section}))
    tokenizer = learn_tokenizer([text], resolved.tokenizer)
    torch.manual_seed(1)
    model = LanguageModel(section, tokenizer.vocabulary_size).eval()
    for tensor in model.parameters():
        torch.nn.init.normal_(tensor, std=std)
    return TrainedModel(
        model=model,
        tokenizer=tokenizer,
        config=resolved,
        device=torch.device("cpu"),
        origin=Origin(Path("runs/random"), "best", {"title": "a text"}, {"step": 0}),
    )


# Without an input gate and activations, an error of rounding grows exponentially.
STD = {"lstm_gate_recurrence_without_all_but_forget_gate": 0.05}


def greedy(trained: TrainedModel, tokens: int = 200) -> Sample:
    """Return the most probable text token by token."""
    stop, filters = StopCondition(length=tokens), Filters(temperature=0)
    (text,) = sample(trained, SampleOptions(stop=stop, filters=filters))
    return text


def passage_of(trained: TrainedModel, tokens: int = 200) -> Passage:
    """Return ids that occur anywhere in a text, <EOS> and <UNK> too."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, trained.tokenizer.vocabulary_size, (tokens,), generator=generator)
    return Passage([ids.tolist()], "random ids")
