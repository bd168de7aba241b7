"""The benchmark of dropout masks: its two kinds of masks, and its cases."""

import pytest
import torch
from benchmark_modules import load

from charlm.model.dropout import dropout_scale

dropout = load("dropout")


@pytest.mark.parametrize("scale", [dropout_scale, dropout.bernoulli_scale])
def test_both_kinds_of_masks_have_the_same_rate_and_mean(scale):
    torch.manual_seed(1)
    mask = scale(torch.Size([200, 500]), 0.25, like=torch.zeros(1))
    assert mask.shape == (200, 500)
    assert mask.unique().tolist() == pytest.approx([0, 4 / 3])
    assert (mask == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_every_case_is_a_configuration_whose_dropout_can_be_removed():
    for name, case in dropout.CASES.items():
        config, without = (dropout.configure(case, c) for c in ([], dropout.NO_DROPOUT))
        assert config != without, name
        assert without.model.output_dropout == 0, name
        assert config.training.steps == 10**9, name


def test_a_line_has_the_cost_of_each_kind(capsys):
    seconds = {"bernoulli_": 0.015, "charlm": 0.011, "none": 0.010}
    dropout.print_row({"case": "a", "seconds": seconds, "speed_up": 15 / 11})
    line = " ".join(capsys.readouterr().out.split())
    assert line == "a 15.00 11.00 10.00 1.36 50.0% 10.0%"
