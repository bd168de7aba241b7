"""The temperature at which a model predicts a text best."""

import pytest
import torch

from charlm.data.windows.window import PADDING
from charlm.evaluation.adaptive.temperature import fit_temperature


def text_of(temperature: float, tokens: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits, and targets drawn from them at a temperature."""
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(tokens, 6, generator=generator)
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return logits, torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def test_the_fit_finds_the_temperature_at_which_targets_were_drawn():
    for temperature in (0.5, 1.0, 1.3, 3.0):
        text = text_of(temperature)
        fitted = fit_temperature(lambda text=text: [text])
        assert fitted == pytest.approx(temperature, rel=0.02)


def test_no_temperature_close_to_the_fitted_one_is_better():
    logits, targets = text_of(1.7)
    fitted = fit_temperature(lambda: [(logits, targets)])

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits.double() / temperature, targets))

    assert loss(fitted) < min(loss(fitted * 1.01), loss(fitted / 1.01))


def test_a_text_in_pieces_with_padding_has_the_same_fit():
    logits, targets = text_of(1.5, tokens=3000)
    padded = torch.cat([targets[2000:], torch.tensor([PADDING] * 4)])
    pieces = [
        (logits[:2000], targets[:2000]),
        (torch.cat([logits[2000:], torch.randn(4, 6)]), padded),
    ]
    assert fit_temperature(lambda: pieces) == pytest.approx(
        fit_temperature(lambda: [(logits, targets)])
    )


def test_an_impossible_token_does_not_change_the_fit():
    logits, targets = text_of(1.5)
    logits = torch.cat([logits, torch.full((len(logits), 1), -torch.inf)], dim=1)
    assert fit_temperature(lambda: [(logits, targets)]) == pytest.approx(1.5, rel=0.02)


def test_the_temperature_stays_in_range_where_the_best_one_is_not_finite():
    logits, _ = text_of(1.0, tokens=100)
    assert fit_temperature(lambda: [(logits, logits.argmax(dim=-1))]) == pytest.approx(0.05)
    assert fit_temperature(lambda: [(logits, logits.argmin(dim=-1))]) == pytest.approx(20)
    assert fit_temperature(lambda: [(torch.zeros(5, 3), torch.zeros(5, dtype=torch.int64))]) == 1
