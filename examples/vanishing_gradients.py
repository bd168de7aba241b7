# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # Why gradients vanish and what gates do
#
# "The nurses, who the dentist that the soldiers met admired, **were** thirsty." To predict *were*
# rather than *was*, a network must remember a word that it read nine words before. To learn that it
# must remember, the gradient of the loss at *were* must reach that word. Does it?
#
# We follow a gradient back through time: first a single number, then a matrix, then three trained
# networks. Then we open a gate, and limit a gradient that explodes.

# %%
import tempfile
from pathlib import Path

import torch

import charlm
from charlm.evaluation.probes.gradients import measure_gradient_norms
from charlm.model.cells.lstm import LSTM, set_gate_bias
from charlm.model.language_model import LanguageModel
from charlm.model_texts import text_to_score
from charlm.views.figures.axes import Axis
from charlm.views.figures.drawing import run_style
from charlm.views.figures.lines import Line, line_chart
from charlm.views.page import Figure

RUNS = Path(tempfile.mkdtemp())
DISTANCES = (1, 2, 4, 8, 16)

# %% [markdown]
# ## 1. One number
#
# The simplest recurrence is $h_t = w h_{t-1}$. The chain rule gives $\partial h_T / \partial h_t =
# w^{T-t}$: a power. It vanishes or explodes, unless $w$ is exactly 1.

# %%
for w in (0.9, 1.0, 1.1):
    first = torch.ones((), requires_grad=True)
    h = first
    for _ in range(50):
        h = w * h
    h.backward()
    print(f"w = {w}: after 50 steps the gradient is {first.grad:.4g} (w to the power of 50)")
    assert abs(first.grad - w**50) < 1e-3 * w**50

# %% [markdown]
# ## 2. A matrix and a slope
#
# In an Elman network, $h_t = \tanh(W h_{t-1} + x_t)$, each step multiplies the gradient by
# $W^\top \mathrm{diag}(1 - h_t^2)$. Its norm is at most the largest singular value of $W$, because
# no slope of tanh is above 1:
#
# $$\left\| \frac{\partial L_T}{\partial h_t} \right\| \le
# \left\| \frac{\partial L_T}{\partial h_T} \right\| \sigma_{\max}(W)^{T-t}$$
#
# (Pascanu et al. 2013). Below, all singular values of $W$ are `gain`. The slopes make the gradient
# smaller than the bound: a saturated unit passes hardly any gradient on.

# %%


def relative_norms(gain, steps=17, hidden_size=64):
    """Return the norm of the gradient at each distance, relative to distance 0."""
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(hidden_size, hidden_size, generator=generator, dtype=torch.float64)
    weight = gain * torch.linalg.qr(matrix).Q  # Orthogonal, times the gain.
    inputs = torch.randn(steps, hidden_size, generator=generator, dtype=torch.float64)
    states = [torch.zeros(hidden_size, dtype=torch.float64, requires_grad=True)]
    for x in inputs:
        states.append(torch.tanh(weight @ states[-1] + x))
    loss = states[-1] @ torch.randn(hidden_size, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(loss, states)
    norms = [float(gradient.norm()) for gradient in reversed(gradients)]
    return [norm / norms[0] for norm in norms]


def show(names, rows, distances=DISTANCES):
    """Print relative norms by distance, one line per network."""
    print(f"{'distance':<28}" + "".join(f"{distance:>10}" for distance in distances))
    for name, row in zip(names, rows, strict=True):
        print(f"{name:<28}" + "".join(f"{row[distance]:>10.2g}" for distance in distances))


GAINS = (0.5, 1.0, 2.0, 4.0)
measured = [relative_norms(gain) for gain in GAINS]
show([f"gain {gain}" for gain in GAINS], measured)

# %% [markdown]
# On a logarithmic axis a power is a straight line.

# %%


def chart(title, findings, rows, x_axis, y_axis):
    """Return a figure with one line for each row of points (x, y)."""
    lines = [
        Line(
            name=name,
            style=run_style(number),
            x=[x for x, _ in points],
            y=[y for _, y in points],
            marker=number,
        )
        for number, (name, points) in enumerate(rows.items())
    ]
    body = line_chart(lines, x_axis, y_axis)
    return Figure(key="chart", title=title, findings=findings, body=body)


for gain, row in zip(GAINS, measured, strict=True):
    assert all(norm <= gain**distance * (1 + 1e-9) for distance, norm in enumerate(row))

chart(
    "Gradient norm by distance, random Elman networks",
    f"At distance 16 it is {measured[0][16]:.1e} with a gain of {GAINS[0]}, and "
    f"{measured[-1][16]:.1e} with a gain of {GAINS[-1]}.",
    {f"gain {gain}": list(enumerate(row)) for gain, row in zip(GAINS, measured, strict=True)},
    Axis(title="distance in steps", whole=True),
    Axis(title="norm relative to distance 0", is_log=True),
)

# %% [markdown]
# A small gain makes the gradient vanish. With a large one, most units are saturated and pass
# nothing on, but the others can make it explode. There is no gain that keeps it for long.
#
# ## 3. Three networks that learned a language
#
# The corpus `agreement` has 40,000 sentences of a small grammar, with up to 24 words between the
# subject and its verb. An Elman network, a GRU and an LSTM of 64 units learn it with the same
# settings. Each sentence is read from the initial state.

# %%
VERBS = ("was", "were", "is", "are")
CELLS = ("elman", "gru", "lstm")
runs = {
    cell: charlm.train(
        charlm.load_config("agreement", [f"model.cell={cell}"]), out=RUNS / cell, progress=False
    )
    for cell in CELLS
}
for cell, run in runs.items():
    print(f"{cell:<6} {run.state['best_loss_nats']:.3f} nats per word on held-out sentences")

# %% [markdown]
# The gradient of the loss at the verb, by the distance to an earlier state. An LSTM has two states:
# the hidden state $h$, and the memory $c$, which is changed by addition:
#
# $$c_t = f_t \odot c_{t-1} + i_t \odot \tilde c_t$$
#
# Along $c$, a step multiplies the gradient by the forget gate $f$ alone, without any matrix or
# slope.

# %%
curves = {}
for cell, run in runs.items():
    for curve in run.gradients(window=24, windows=256, at=VERBS).curves:
        curves[f"{cell}, {'c' if curve.part == 'memory' else 'h'}"] = curve

show(curves, [[row.relative for row in curve.distances] for curve in curves.values()])
for name, curve in curves.items():
    print(f"{name}: the mean norm halves every {curve.half_life_tokens:.1f} tokens")
elman, memory = (curves[name].distances[16].relative for name in ("elman, h", "lstm, c"))
print(
    f"16 words back, the LSTM's memory has {memory / elman:,.0f} times as much as the Elman state."
)

# %%
report = runs["elman"].report([runs["gru"], runs["lstm"]], sections=("context", "agreement"))
report.figures["gradient-by-distance"]

# %% [markdown]
# The figure is the one of `charlm view`: it measures all words, and the table above the verbs
# alone. Where a word can be predicted from its neighbours, no gradient needs to go far.
#
# Did the networks learn the agreement?

# %%
report.figures["agreement-by-distance"]

# %% [markdown]
# The test sentences come in pairs that differ only in the number of the subject, so a network that
# forgot the subject is right in at most 50 % of them.

# %%
for cell, run in runs.items():
    agreement = run.agreement()
    far = [row for row in agreement.by_distance if row["distance_from"] >= 10]
    right = sum(row["accuracy"] * row["count"] for row in far) / sum(row["count"] for row in far)
    print(
        f"{cell:<6} verbs that agree: {agreement.accuracy:.1%}; at ten words or more: {right:.1%}"
    )

# %% [markdown]
# ## 4. How much context is used?
#
# A gradient tells what *could* be learned; the loss tells what *was* learned. We predict the same
# verbs from the last 1, 2, 5, ... words only. For this measure a network reads the corpus as one
# long text (`corpus.mode=stream`), because it must be able to begin anywhere.

# %%
STREAM = ["corpus.mode=stream", "tokenizer.eos=line", "training.window=32"]
contexts = {}
for cell in CELLS:
    config = charlm.load_config("agreement", [f"model.cell={cell}", *STREAM])
    run = charlm.train(config, out=RUNS / f"{cell}-stream", progress=False)
    contexts[cell] = run.context(contexts=(1, 2, 5, 10, 20, 50), at=VERBS).contexts

print("words" + "".join(f"{row.context:>8}" for row in contexts["lstm"]))
for cell, rows in contexts.items():
    print(f"{cell:<5}" + "".join(f"{row.loss_nats:>8.2f}" for row in rows) + " nats at the verb")
gap = contexts["elman"][-1].loss_nats - contexts["lstm"][-1].loss_nats
print(f"With 50 words, the Elman network needs {gap:.2f} nats per verb more than the LSTM.")

chart(
    "Loss at the verb by number of words read",
    "With 50 words: "
    + ", ".join(f"{cell} {rows[-1].loss_nats:.2f}" for cell, rows in contexts.items())
    + ".",
    {cell: [(row.context, row.loss_nats) for row in rows] for cell, rows in contexts.items()},
    Axis(title="words read", is_log=True),
    Axis(title="nats at the verb"),
)

# %% [markdown]
# The loss with a few words can be higher than with one: a part of a sentence is misleading, because
# the network takes its first word for the subject.
#
# ## 5. What the forget gate does
#
# In an untrained LSTM the forget gates are near $\sigma(\text{bias})$. So along $c$ alone the
# gradient falls like $\sigma(\text{bias})^{\text{distance}}$; the other paths add to that. charlm
# starts with a bias of 1 (Gers et al. 2000; Jozefowicz et al. 2015).

# %%
lstm = runs["lstm"]
ids = text_to_score(lstm.trained).tokens.ids


def untrained_with_forget_bias(bias):
    """Return an LSTM language model with its initial weights and this bias of the forget gate."""
    torch.manual_seed(1)
    model = LanguageModel(lstm.config.model, lstm.tokenizer.vocabulary_size)
    cell = model.encoder.recurrence.layers[0]
    set_gate_bias(cell.input, cell.hidden_size, gate=1, bias=bias)  # Gates: i, f, candidate, o.
    return model


for bias in (-2, 0, 1, 3):
    gradients = measure_gradient_norms(
        untrained_with_forget_bias(bias),
        ids,
        mode="records",
        window=24,
        windows=256,
        device=torch.device("cpu"),
    )
    memory = next(curve for curve in gradients.curves if curve.part == "memory")
    reached = memory.distances[16].relative
    gate = float(torch.sigmoid(torch.tensor(float(bias))))
    print(
        f"bias {bias:>2}: forget gate {gate:.2f}; 16 words back {reached:.1e} "
        f"of the gradient, {gate**16:.1e} along c alone"
    )

# %% [markdown]
# Does the start matter for what is learned? `charlm.register_cell` adds a cell of our own: an LSTM
# whose forget gates start closed.

# %%


class ForgetfulLSTM(LSTM):
    """An LSTM whose forget gates are closed at first."""

    def initialize(self, gain=1.0):
        """Draw the usual initial weights, and set the bias of the forget gate."""
        super().initialize(gain)
        set_gate_bias(self.input, self.hidden_size, gate=1, bias=-3)


charlm.register_cell("forgetful_lstm", ForgetfulLSTM)
config = charlm.load_config("agreement", ["model.cell=forgetful_lstm"])
forgetful = charlm.train(config, out=RUNS / "forgetful", progress=False)
for name, run in {"bias 1": lstm, "bias -3": forgetful}.items():
    print(
        f"{name:<8} {run.state['best_loss_nats']:.3f} nats per word, "
        f"{run.agreement().accuracy:.1%} of the verbs agree"
    )

# %% [markdown]
# ## 6. The other failure: explosion
#
# An Elman network with relu has no slopes below 1 where a unit is active, so a large gain explodes.
# Clipping (Pascanu et al. 2013) keeps the direction of a gradient and limits its norm.

# %%
for clipnorm in ("null", "64"):
    overrides = [
        "model.cell={kind: elman, activation: relu}",
        "model.recurrent_gain=3",
        f"training.clipnorm={clipnorm}",
    ]
    config = charlm.load_config("agreement", overrides)
    run = charlm.train(
        config, steps=300, evaluations=1, out=RUNS / f"relu-{clipnorm}", progress=False
    )
    row = run.history[-1]
    clipped = "no step was clipped"
    if row["clipped_share"] is not None:
        clipped = f"{row['clipped_share']:.0%} of the steps were clipped"
    print(
        f"clipnorm {clipnorm:<5} largest gradient norm {row['gradient_norm_max']:.1e}; {clipped}; "
        f"{row['loss_nats']:.3f} nats per word"
    )

# %% [markdown]
# Clipping limits what explodes. It does not bring back what vanished: that takes another path for
# the gradient, which is what a gate is.
#
# ## Exercises
#
# 1. In section 2, replace tanh by relu and by the logistic function. Does the bound still hold?
#    What is the largest slope of the logistic function?
# 2. In a GRU, $h_t = (1 - u) \odot \tilde c + u \odot h_{t-1}$. Which gate takes the place of $f$?
#    Which initial bias would open it? Write the cell and train it.
# 3. `run.gradients(untrained=True)` measures a network before its training. Which of the three
#    networks gained most by training?
# 4. Train the Elman network for 6,000 steps. Does it learn the agreement? Is its half-life longer?
# 5. `run.agreement(longest=8, most_nouns=6)` tests sentences longer than any in training. Which
#    network generalizes?
