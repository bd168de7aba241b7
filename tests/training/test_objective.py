"""What an objective says about its model, to processes and CUDA graphs."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from charlm.config.load import check_config
from charlm.model.language_model import LanguageModel
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
    objective(inputs, targets, None, 1).objective.backward()
    has_every_gradient = all(tensor.grad is not None for tensor in model.parameters())
    assert objective.uses_every_parameter == has_every_gradient


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_regularized_records_have_the_mean_of_their_objectives_whatever_their_padding(direction):
    fields = {
        "model": {"hidden_size": 8, "embedding_size": 4, "direction": direction},
        "training": {"steps": 1, "activation_regularization": 2},
    }
    config = check_config(fields, "test")
    torch.manual_seed(1)
    model = LanguageModel(config.model, 9)
    objective = make_objective(model, config.training, Hardware(torch.device("cpu")))
    networks = objective.num_networks
    short, long = torch.tensor([0, 3, 4, 0]), torch.tensor([0, 5, 6, 7, 8, 3, 0])

    def value(*records, batch_size):
        inputs = pad_sequence([ids[:-1] for ids in records])
        targets = pad_sequence([ids[1:] for ids in records], padding_value=PADDING)
        columns = [ids.repeat(1, networks) for ids in (inputs, targets)]
        return objective(*columns, None, batch_size * networks).objective

    alone = [value(record, batch_size=1) for record in (short, long)]
    torch.testing.assert_close(value(short, long, batch_size=2), sum(alone) / 2)
