"""The lines about a training, in Python and on the command line."""

import math
import re

import pytest
from conftest import small_config

from charlm.runs import prepare, session
from charlm.runs.experiment import Evaluated
from charlm.runs.progress_bar import evaluation_line, format_score

BITS = re.compile(
    r"step 6, epoch \d+\.\d+, \d+ s: training (.+), validation (.+) bits per character, best"
)
WORDS = re.compile(
    r"step 6, epoch \d+\.\d+, \d+ s: training (.+), validation (.+) perplexity, best"
)


@pytest.mark.parametrize("level", ["char", "byte", "bpe", "word"])
def test_a_line_has_one_unit_that_depends_on_the_level_of_the_tokens(level, text_file, tmp_path):
    changes = [f"tokenizer.level={level}", "training.steps=6", "training.evaluations=1"]
    experiment = prepare.begin(small_config(text_file, *changes), tmp_path / "run")
    (event,) = [event for event in session.run(experiment) if isinstance(event, Evaluated)]
    metrics, counts = event.metrics, experiment.tokens["train"].counts
    pattern = WORDS if level == "word" else BITS
    training, validation = map(float, pattern.fullmatch(evaluation_line(event)).groups())
    if level == "word":
        assert training == pytest.approx(math.exp(metrics["training_loss_nats"]), abs=0.06)
        assert validation == pytest.approx(metrics["perplexity"], abs=0.06)
    else:
        nats = metrics["training_loss_nats"] * counts.tokens / counts.characters
        assert training == pytest.approx(nats / math.log(2), abs=6e-4)
        assert validation == pytest.approx(metrics["bits_per_character"], abs=6e-4)


def test_the_score_of_a_diverged_run_is_short():
    for level in ("word", "char", None):
        assert format_score(1e304, level) == "1e+304"
