"""The sections `training` and `checkpoint`: how the network is trained and saved."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from charlm.config.section import Fraction, Section
from charlm.config.values import DEVICES

BUDGETS = ("minutes", "steps", "epochs")
_MAX_SEED = (1 << 64) - 1  # The largest seed that torch accepts.


class Training(Section):
    """How the network is trained.

    The objective is the cross-entropy, summed over time and averaged over the batch.
    """

    minutes: float | None = Field(
        None, gt=0, description="Budget: minutes of training steps. [1, if no budget is given]"
    )
    steps: int | None = Field(None, ge=1, description="Budget: number of training steps.")
    epochs: float | None = Field(
        None, gt=0, description="Budget: number of passes over the training text."
    )
    batch_size: int = Field(
        16,
        ge=1,
        description=(
            "Number of streams or records in a step. In a short run, small batches are "
            "better because they allow more steps."
        ),
    )
    accumulation: int = Field(
        1,
        ge=1,
        le=1 << 16,
        description=(
            "Number of parts into which a batch is divided to save memory; their "
            "gradients are added before the step."
        ),
    )
    window: int = Field(
        64, ge=1, description="Number of tokens per step of truncated backpropagation through time."
    )
    vary_window: bool = Field(
        False,
        description=(
            "stream mode: vary the length of the windows around `window`, so that they "
            "end at different places in each epoch (Merity et al. 2018)."
        ),
    )
    partial_shuffle: bool = Field(
        False,
        description=(
            "stream mode: each stream starts at a different place in each epoch (Press 2019)."
        ),
    )
    restart_windows: int = Field(
        16,
        ge=0,
        description=(
            "stream mode: number of windows after which a stream starts the next document from "
            "the initial state, as sampling and scoring do, so that the model learns how documents "
            "begin; 0: never. A text without <EOS> inside has no such starts."
        ),
    )
    optimizer: Literal["adamw", "adam", "nadam", "rmsprop", "sgd", "muon"] = Field(
        "adamw",
        description=(
            "muon: Muon for the recurrent matrices, one gate at a time, and AdamW for "
            "all other parameters (Jordan et al. 2024)."
        ),
    )
    learning_rate: float = Field(
        8.0e-3,
        gt=0,
        description=(
            "Peak learning rate of the schedule. The default suits a run of minutes "
            "with a small batch; for hours or several layers, use a quarter of it."
        ),
    )
    beta1: float = Field(
        0.9,
        ge=0,
        lt=1,
        description=(
            "Decay rate of the mean of the gradients; momentum for sgd and muon; 0 "
            "gives Adam without momentum (Melis et al. 2018)."
        ),
    )
    beta2: float = Field(
        0.99,
        ge=0,
        lt=1,
        description=(
            "Decay rate of the mean of the squared gradients. 0.99 adapts within the "
            "few thousand steps of a short run."
        ),
    )
    weight_decay: float = Field(
        0.1,
        ge=0,
        description=(
            "Weight decay of the matrices. At high learning rates, 0.1 to 0.2 is better than 0.01."
        ),
    )
    decay_embeddings: bool = Field(False, description="Apply weight decay to embeddings too.")
    decay_biases: bool = Field(False, description="Apply weight decay to biases too.")
    schedule: Literal["linear", "cosine", "constant", "trapezoid", "plateau"] = Field(
        "linear",
        description=(
            "Learning rate after the warm-up: linear or cosine decay to zero; "
            "constant; trapezoid: constant, then linear decay in the last fifth; "
            "plateau: divided by 4 after each evaluation without a new best."
        ),
    )
    warmup_steps: int = Field(
        100, ge=0, description="Number of steps in which the learning rate rises from zero."
    )
    averaging: Literal["none", "exponential", "triggered"] = Field(
        "none",
        description=(
            "Weights that are scored and saved: none: the last weights; exponential: "
            "their exponential moving average; triggered: from the time when the "
            "validation loss stops falling, the mean of all weights since then "
            "(NT-ASGD, Merity et al. 2018)."
        ),
    )
    average_steps: float = Field(
        200.0,
        ge=1,
        description=(
            "exponential: number of steps that the average covers; its decay rate is 1 "
            "- 1 / average_steps."
        ),
    )
    trigger_evaluations: int = Field(
        5,
        ge=1,
        description=(
            "triggered: averaging starts when the validation loss is above the lowest one "
            "of at least N evaluations earlier."
        ),
    )
    replay: Fraction = Field(
        0.0,
        description=(
            "Fraction of the trained tokens that are of the text of the run whose weights the "
            "training starts from (charlm train --from), so that the model does not forget it."
        ),
    )
    label_smoothing: Fraction = Field(
        0.0,
        description=(
            "Fraction of the target's probability that is distributed over the whole "
            "vocabulary (Szegedy et al. 2016). It affects training only, not scores."
        ),
    )
    activation_regularization: float = Field(
        0.0,
        ge=0,
        description=(
            "Weight of the mean square of the input of the projection (Merity et al. 2018: 2)."
        ),
    )
    temporal_regularization: float = Field(
        0.0,
        ge=0,
        description=(
            "Weight of the mean square of the change of the output from one token to "
            "the next (Merity et al. 2018: 1)."
        ),
    )
    clipnorm: float | None = Field(
        64.0,
        gt=0,
        description=(
            "Maximum norm of the gradient of the loss, which is summed over time. It "
            "is about `window` times the value for a mean loss."
        ),
    )
    clipvalue: float | None = Field(
        None, gt=0, description="Maximum absolute value of a component of this gradient."
    )
    seed: int = Field(
        1,
        ge=0,
        le=_MAX_SEED,
        description="Seed of the initial weights, dropout and data order.",
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 if it is faster on the device, else fp32."
    )
    cuda_graph: bool = Field(
        False,
        description=(
            "GPU: record one step as a CUDA graph and replay it. It needs adamw, adam "
            "or muon, one process, no task, no adaptive softmax and no learned initial "
            "state; otherwise it has no effect. Not yet tested on a GPU."
        ),
    )
    evaluations: int = Field(
        5,
        ge=1,
        description=(
            "Number of evaluations on the validation split, at equal distances over "
            "the budget; the last is at its end."
        ),
    )
    evaluation_share: float | None = Field(
        0.2,
        gt=0,
        lt=1,
        description=(
            "Budget of minutes: maximum time of all evaluations, as a fraction of the budget. "
            "If the first evaluation takes longer than its part of this time, a part of the "
            "validation split is scored during training. null: always the whole split."
        ),
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after N evaluations without a new best."
    )
    on_divergence: Literal["stop", "halve"] = Field(
        "stop",
        description=(
            "If the loss is not finite: stop: end the run; halve: return to the last "
            "good evaluation and halve the learning rate."
        ),
    )
    halvings: int = Field(
        3, ge=1, le=100, description="halve: maximum number of times; after that, the run ends."
    )
    gradient_compression: Literal["none", "bf16"] = Field(
        "none",
        description=(
            "Several processes: exchange gradients in fp32 (none) or in half the bytes (bf16)."
        ),
    )
    timeout_seconds: float = Field(
        300.0,
        gt=0,
        le=86400,
        description=(
            "Several processes: seconds that a process waits for the others before it "
            "ends with an error."
        ),
    )

    @field_validator("device")
    @classmethod
    def _is_device(cls, device: str) -> str:
        if not re.fullmatch(DEVICES, device):
            raise ValueError(f"must be auto, cpu, cuda or cuda:N, got {device!r:.60}")
        return device

    @model_validator(mode="after")
    def _has_one_budget(self) -> "Training":
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)}: only one budget is possible; keep one of them"
            )
        if not given:
            object.__setattr__(self, "minutes", 1.0)
        return self

    @property
    def budget(self) -> tuple[str, float]:
        """Unit and amount of the budget: the one of minutes, steps and epochs that is set."""
        amounts = {name: getattr(self, name) for name in BUDGETS}
        return next((name, amount) for name, amount in amounts.items() if amount is not None)


class Checkpoint(Section):
    """When checkpoints are saved."""

    save_seconds: float = Field(
        30.0,
        gt=0,
        description=(
            "Seconds between two saves of last/, in addition to the save at each "
            "evaluation. A crash loses about this time, or more if `save_share` delays saves."
        ),
    )
    save_share: float | None = Field(
        0.03,
        gt=0,
        lt=1,
        description=(
            "Maximum fraction of the training time spent on saving; saves are delayed "
            "to stay below it, except the last one. null: no limit."
        ),
    )
