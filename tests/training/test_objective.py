"""What an objective says about its model, to processes and CUDA graphs."""

import pytest
import torch

from charlm.config.load import check_config
from charlm.model.translation_model import TranslationModel
from charlm.training.devices import Hardware
from charlm.training.objective import make_objective

PADDING = -100


@pytest.mark.parametrize("attention", ["none", "additive"])
@pytest.mark.parametrize("option", [{"layer_norm": True}, {"block": "griffin"}])
def test_processes_expect_a_gradient_of_every_parameter_only_if_there_is_one(attention, option):
    """Without attention the features of the encoder, which these options change, are not used."""
    fields = {
        "model": {"hidden_size": 8, "embedding_size": 4, **option},
        "task": {"kind": "translate", "attention": attention},
        "training": {"steps": 1},
    }
    config = check_config(fields, "test")
    model = TranslationModel(config.model, 12, config.task)
    objective = make_objective(model, config.training, Hardware(torch.device("cpu")))
    inputs = torch.tensor([[0], [3], [4], [2], [5], [6]])
    targets = torch.tensor([[PADDING], [PADDING], [PADDING], [5], [6], [0]])
    objective(inputs, targets, None, 1, 1).objective.backward()
    has_every_gradient = all(tensor.grad is not None for tensor in model.parameters())
    assert objective.uses_every_parameter == has_every_gradient
