"""Shipped configurations that reproduce published recipes take the same steps as these."""

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.optim import SGD

from charlm.config.load import load_config
from charlm.data.windows.streams import stream_windows
from charlm.data.windows.window import Position
from charlm.model.language_model import LanguageModel, count_parameters, detach
from charlm.training.devices import Hardware
from charlm.training.loop import TrainingState, train
from charlm.training.objective import LanguageModelObjective
from charlm.training.optimizer import make_optimizer

VOCABULARY, STEPS = 13, 3
# No random numbers. Few steps, because the learning rates are so high that rounding errors grow.
SMALL = [
    "model.hidden_size=6",
    "model.num_layers=2",
    "model.embedding_size=6",
    "model.word_dropout=0",
    "model.embedding_dropout=0",
    "model.dropout=0",
    "model.output_dropout=0",
    "model.weight_dropout=0",
    "training.vary_window=false",
    "training.averaging=none",
    "training.batch_size=3",
    f"training.steps={STEPS}",
]


def their_steps(model, windows, *, learning_rate, clip, weight_decay, activation, temporal):
    """Take steps as word_language_model and awd-lstm-lm do: the loss is a mean over the window."""
    optimizer, states = SGD(model.parameters(), lr=learning_rate, weight_decay=weight_decay), None
    for window in windows:
        hidden, states = model.encoder(window.inputs, None if states is None else detach(states))
        loss = functional.cross_entropy(
            model.projection(hidden).flatten(0, 1), window.targets.flatten()
        )
        loss = (
            loss
            + activation * hidden.square().mean()
            + temporal * (hidden[1:] - hidden[:-1]).square().mean()
        )
        optimizer.zero_grad()
        loss.backward()
        # Without the 1e-6 that torch adds to the norm: it is not negligible with a clip of 0.25.
        gradients = [weight.grad for weight in model.parameters()]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch._foreach_mul_(gradients, min(1.0, clip / float(norm)))
        optimizer.step()


@pytest.mark.parametrize(
    ("name", "window", "theirs"),
    [
        (
            "word-language-model",
            35,
            {"learning_rate": 20, "clip": 0.25, "weight_decay": 0, "activation": 0, "temporal": 0},
        ),
        (
            "ptb",
            70,
            {
                "learning_rate": 30,
                "clip": 0.25,
                "weight_decay": 1.2e-6,
                "activation": 2,
                "temporal": 1,
            },
        ),
        (
            "wikitext-2",
            70,
            {
                "learning_rate": 30,
                "clip": 0.25,
                "weight_decay": 1.2e-6,
                "activation": 2,
                "temporal": 1,
            },
        ),
    ],
)
def test_the_steps_equal_those_of_a_recipe_whose_loss_is_a_mean(name, window, theirs):
    config = load_config(name, SMALL)
    assert config.training.window == window
    torch.manual_seed(1)
    model = LanguageModel(config.model, VOCABULARY).double()
    reference = copy.deepcopy(model)
    ids = np.random.default_rng(1).choice(VOCABULARY, size=3 * window * 8, p=np.arange(1, 14) / 91)
    windows = list(
        islice(stream_windows(ids, batch_size=3, window=window, start=Position()), STEPS)
    )
    steps = train(
        LanguageModelObjective(model, config.training, Hardware(torch.device("cpu"))),
        iter(windows),
        make_optimizer(model, config.training),
        config.training,
        state=TrainingState(),
        clock=lambda: 0.0,
    )
    clipped = [bool(step.clipping.by_norm) for step in steps]
    their_steps(reference, windows, **theirs)
    assert len(clipped) == STEPS and any(clipped)
    for (name, their), our in zip(reference.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(
            our, their, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("name", "vocabulary_size", "millions"),
    [
        ("ptb", 10_000, 24.2),
        ("wikitext-2", 33_278, 33.6),
        ("enwik8", 258, 47.3),
        ("ptb-small", 10_000, 4.3),
        ("ptb-characters", 51, 2.8),
    ],
)
def test_a_network_has_the_number_of_parameters_stated_in_the_header(
    name, vocabulary_size, millions
):
    with torch.device("meta"):
        model = LanguageModel(load_config(name).model, vocabulary_size)
    assert sum(size for _, _, size in count_parameters(model)) / 1e6 == pytest.approx(
        millions, abs=0.05
    )
