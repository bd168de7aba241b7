"""Schedules by hand; clipping by hand; what is decayed."""

import pytest
import torch

from charlm.config import Model, Training
from charlm.model.language_model import LanguageModel
from charlm.training.optimizer import clip, gradient_group, learning_rate, make_optimizer


@pytest.mark.parametrize(
    ("schedule", "share", "expected"),
    [("linear", 0.25, 0.75), ("linear", 1, 0), ("cosine", 0.5, 0.5), ("cosine", 1, 0), ("constant", 0.9, 1),
     ("trapezoid", 0.79, 1), ("trapezoid", 0.9, 0.5), ("trapezoid", 1, 0)],
)  # fmt: skip
def test_each_schedule_falls_as_it_says(schedule, share, expected):
    section = Training(schedule=schedule, learning_rate=1.0, warmup_steps=0)
    assert learning_rate(section, step=10, share=share) == pytest.approx(expected)


def test_the_rate_rises_over_the_warm_up():
    section = Training(schedule="constant", learning_rate=1.0, warmup_steps=4)
    assert [learning_rate(section, step=step, share=0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def gradient(*values: float) -> torch.Tensor:
    tensor = torch.zeros(len(values), requires_grad=True)
    tensor.grad = torch.tensor(values)
    return tensor


def test_clipnorm_scales_the_whole_gradient_down_to_the_norm():
    tensors = [gradient(3.0, 0.0), gradient(4.0)]
    assert clip(tensors, clipnorm=1.0, clipvalue=None).norm.item() == pytest.approx(5)
    torch.testing.assert_close(tensors[0].grad, torch.tensor([0.6, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(tensors[1].grad, torch.tensor([0.8]), atol=1e-5, rtol=0)


def test_clipnorm_leaves_a_smaller_gradient_alone():
    tensor = gradient(0.3, 0.4)
    clip([tensor], clipnorm=1.0, clipvalue=None)
    torch.testing.assert_close(tensor.grad, torch.tensor([0.3, 0.4]))


def test_clipvalue_comes_before_clipnorm_and_the_norm_told_is_that_of_neither():
    tensor = gradient(30.0, -4.0, 0.5)
    norm = clip([tensor], clipnorm=2.0, clipvalue=4.0).norm
    assert norm.item() == pytest.approx((900 + 16 + 0.25) ** 0.5)
    clipped = torch.tensor([4.0, -4.0, 0.5])
    torch.testing.assert_close(tensor.grad, clipped * (2 / clipped.norm()), atol=1e-5, rtol=0)


def test_the_norm_of_each_tensor_is_told_as_it_was_before_clipping():
    frozen = torch.zeros(2)
    clipping = clip([gradient(3.0, 4.0), frozen, gradient(12.0)], clipnorm=1.0, clipvalue=2.0)
    assert clipping.norms.tolist() == [5, 0, 12]
    assert clipping.norm.item() == 13


@pytest.mark.parametrize(
    ("clipnorm", "clipvalue", "by_norm", "by_value"),
    [(None, None, None, None), (4.9, None, True, None), (5.1, None, False, None), (None, 3.9, None, True),
     (None, 4.0, None, False), (4.9, 3.0, False, True), (4.0, 3.0, True, True), (5.1, 4.1, False, False)],
)  # fmt: skip
def test_clipping_tells_which_limit_was_passed(clipnorm, clipvalue, by_norm, by_value):
    # Of norm 5; clipped to 3 by value it is of norm 4.24.
    clipping = clip([gradient(3.0, 0.0), gradient(-4.0)], clipnorm=clipnorm, clipvalue=clipvalue)
    assert (None if clipping.by_norm is None else bool(clipping.by_norm)) is by_norm
    assert (None if clipping.by_value is None else bool(clipping.by_value)) is by_value


@pytest.mark.parametrize(
    ("name", "group"),
    [("embedding.weight", "embedding"), ("recurrence.cells.0.kernel.weight_ih_l0", "layer_0"),
     ("recurrence.norms.11.weight", "layer_11"), ("recurrence.initial.1.0", "layer_1"),
     ("backward_recurrence.cells.2.kernel.bias_hh_l0", "backward_layer_2"), ("bridge.weight", "projection"),
     ("projection.bias", "projection")],
)  # fmt: skip
def test_every_parameter_is_told_with_its_layer_or_its_end_of_the_network(name, group):
    assert gradient_group(name) == group


@pytest.mark.parametrize(("embeddings", "biases"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_decay_shrinks_matrices_and_the_rest_only_if_asked(optimizer, embeddings, biases):
    model = LanguageModel(Model(hidden_size=4, embedding_size=3), 5)
    for tensor in model.parameters():
        torch.nn.init.ones_(tensor)
        tensor.grad = torch.zeros_like(tensor)
    section = Training(
        weight_decay=0.5, learning_rate=0.1, optimizer=optimizer, decay_embeddings=embeddings, decay_biases=biases
    )
    make_optimizer(model, section).step()
    assert (model.projection.weight < 1).all()
    assert (model.recurrence.layers[0].recurrent.weight < 1).all()
    assert (model.embedding.weight < 1).all() == embeddings
    assert (model.projection.bias < 1).all() == biases


@pytest.mark.parametrize("name", ["adamw", "adam", "rmsprop", "sgd"])
def test_every_optimizer_lowers_the_loss_of_a_batch(name):
    torch.manual_seed(1)
    model = LanguageModel(Model(hidden_size=8, embedding_size=4), 7)
    optimizer = make_optimizer(model, Training(optimizer=name, learning_rate=0.01))
    ids = torch.randint(7, (6, 4))
    losses = []
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model(ids[:-1])[0].flatten(0, 1), ids[1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
