"""The time that a step of a model takes on this processor."""

import time

import torch

from charlm.data.tokenizer import EOS
from charlm.model.language_model import LanguageModel
from charlm.sampling.stepper import Stepper
from charlm.sampling.threads import num_weights, threads_for_step

_STEPS = 30


@torch.inference_mode()
def seconds_per_step(model: LanguageModel) -> float:
    """Return the duration of the shortest of some steps of one text.

    Other programs may have used the processor during the longer ones.
    """
    step, weights = Stepper(model), num_weights(model)
    ids, states = torch.tensor([EOS]), model.initial_states(1)
    durations = []
    for _ in range(_STEPS):
        started = time.perf_counter()
        with threads_for_step(weights):
            step(ids, states)
        durations.append(time.perf_counter() - started)
    return min(durations)
