# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # An RNN from its equation to its text
#
# A recurrent network reads a text one character at a time and keeps a vector $h$, its state:
#
# $$h_t = \tanh(W_x x_t + W_h h_{t-1} + b), \qquad p_t = \mathrm{softmax}(W_y h_t + c)$$
#
# (Elman 1990). $x_t$ is the vector of the character that was read, and $p_t$ has a probability for
# each character that may come next. This notebook builds the network in numpy, derives its
# gradient by hand, trains it, and then finds the same network and the same loss in charlm.

# %%
import copy
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

import charlm
from charlm.data.tokenizer import EOS

RUNS = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. A text is a sequence of numbers
#
# We take a few lines of documentation that every Python has. Each different character gets a
# number.

# %%
text = " ".join(str.format.__doc__.split()) + " " + " ".join(range.__doc__.split()) + "\n"
alphabet = sorted(set(text))
ids = np.array([alphabet.index(character) for character in text])
print(f"{len(text)} characters, {len(alphabet)} of them different")
print(text[:60], "is", ids[:8], "...")

# %% [markdown]
# ## 2. The equation, forward
#
# The weights are six arrays. `forward` is the equation above, in a loop over the text. The loss
# is the sum over the characters of $L_t = -\log p_t(\text{next character})$.

# %%
random = np.random.default_rng(1)


def initial_weights(vocabulary_size, embedding_size=12, hidden_size=32):
    """Return small random weights."""
    shapes = {
        "E": (vocabulary_size, embedding_size),  # Row i is the vector x of character i.
        "Wx": (hidden_size, embedding_size),
        "Wh": (hidden_size, hidden_size),
        "b": (hidden_size,),
        "Wy": (vocabulary_size, hidden_size),
        "c": (vocabulary_size,),
    }
    return {name: 0.2 * random.normal(size=shape) for name, shape in shapes.items()}


def forward(weights, ids, h):
    """Return the states h, (time + 1, hidden), and the probabilities, (time, vocabulary)."""
    states, probabilities = [h], []
    for id_ in ids:
        x = weights["E"][id_]
        h = np.tanh(weights["Wx"] @ x + weights["Wh"] @ h + weights["b"])
        scores = weights["Wy"] @ h + weights["c"]
        exponentials = np.exp(scores - scores.max())
        states.append(h)
        probabilities.append(exponentials / exponentials.sum())
    return np.array(states), np.array(probabilities)


def loss(probabilities, targets):
    """Return the sum of -log p over the text."""
    return -np.log(probabilities[np.arange(len(targets)), targets]).sum()


weights = initial_weights(len(alphabet))
inputs, targets = ids[:40], ids[1:41]
states, probabilities = forward(weights, inputs, np.zeros(32))
print(f"loss per character: {loss(probabilities, targets) / 40:.3f} nats")
print(f"a uniform guess:    {math.log(len(alphabet)):.3f} nats")

# %% [markdown]
# ## 3. The chain rule, backward
#
# The loss at time $t$ depends on $h_t$ directly, and every later loss depends on it through
# $h_{t+1}$. With $a_t$ the argument of tanh, and $\delta_t = \partial J / \partial a_t$:
#
# $$\frac{\partial J}{\partial h_t} = W_y^\top (p_t - y_t) + W_h^\top \delta_{t+1},
# \qquad \delta_t = (1 - h_t^2) \odot \frac{\partial J}{\partial h_t}$$
#
# where $y_t$ is 1 at the target and 0 elsewhere. So one loop from the end of the text to its
# beginning is enough: backpropagation through time (Werbos 1990). A weight that is used at every
# step sums the contributions of all steps.

# %%


def backward(weights, ids, targets, states, probabilities):
    """Return the gradient of the summed loss for every weight."""
    gradients = {name: np.zeros_like(weight) for name, weight in weights.items()}
    delta = np.zeros_like(states[0])
    for t in reversed(range(len(ids))):
        error = probabilities[t].copy()
        error[targets[t]] -= 1  # p - y
        from_output, from_later = weights["Wy"].T @ error, weights["Wh"].T @ delta
        delta = (1 - states[t + 1] ** 2) * (from_output + from_later)
        gradients["Wy"] += np.outer(error, states[t + 1])
        gradients["c"] += error
        gradients["Wx"] += np.outer(delta, weights["E"][ids[t]])
        gradients["Wh"] += np.outer(delta, states[t])
        gradients["b"] += delta
        gradients["E"][ids[t]] += weights["Wx"].T @ delta
    return gradients


by_hand = backward(weights, inputs, targets, states, probabilities)

# %% [markdown]
# Is it right? torch differentiates the same equation automatically.

# %%


def loss_in_torch(tensors, ids, targets):
    """Return the same loss from torch tensors."""
    h, total = torch.zeros(len(tensors["b"]), dtype=torch.float64), 0.0
    for id_, target in zip(ids, targets, strict=True):
        x = tensors["E"][id_]
        h = torch.tanh(tensors["Wx"] @ x + tensors["Wh"] @ h + tensors["b"])
        total = total - (tensors["Wy"] @ h + tensors["c"]).log_softmax(dim=0)[target]
    return total


tensors = {name: torch.tensor(weight, requires_grad=True) for name, weight in weights.items()}
loss_in_torch(tensors, inputs, targets).backward()
for name, tensor in tensors.items():
    difference = np.abs(by_hand[name] - tensor.grad.numpy()).max()
    print(f"{name:<3} largest difference to autograd: {difference:.1e}")
    assert difference < 1e-10

# %% [markdown]
# ## 4. Learn
#
# A step takes 40 characters, computes the gradient, limits its norm, and moves every weight against
# it. The learning rate falls linearly to 0. The state is carried to the next 40 characters, but the
# gradient is not: truncated backpropagation through time.

# %%
STEPS, WINDOW, RATE, LARGEST_NORM = 3000, 40, 0.1, 5.0
h, history = np.zeros(32), []
for step in range(STEPS):
    first = step * WINDOW % (len(ids) - WINDOW - 1)
    inputs, targets = ids[first : first + WINDOW], ids[first + 1 : first + WINDOW + 1]
    states, probabilities = forward(weights, inputs, h)
    gradients = backward(weights, inputs, targets, states, probabilities)
    norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    rate = RATE * (1 - step / STEPS) * min(1, LARGEST_NORM / norm)
    for name, gradient in gradients.items():
        weights[name] -= rate * gradient
    h = states[-1]
    history.append(loss(probabilities, targets) / WINDOW)

for step in (0, 300, 1000, STEPS - 1):
    print(
        f"step {step:>5}: {np.mean(history[max(0, step - 50) : step + 1]):.3f} nats per character"
    )

# %% [markdown]
# ## 5. Write
#
# To write, draw a character from $p_t$ and read it as the next input.

# %%


def write(weights, length, first):
    """Return a text that the network writes after its first character."""
    h, written = np.zeros(len(weights["b"])), [first]
    for _ in range(length):
        states, probabilities = forward(weights, [written[-1]], h)
        h = states[-1]
        written.append(random.choice(len(alphabet), p=probabilities[-1]))
    return "".join(alphabet[id_] for id_ in written)


print(write(weights, 300, ids[0]))

# %% [markdown]
# The network has seen a few hundred characters many times, so it repeats pieces of them by heart.
# For a text that is worth reading it needs more data, a held-out text that shows whether it learned
# or memorized, and a faster loop.
#
# ## 6. The same network in charlm
#
# `model.cell=elman` is the equation above. The text is the documentation of Python's standard
# library, two million characters.

# %%
config = charlm.load_config(
    "quickstart",
    ["model.cell=elman", "model.hidden_size=128", "model.embedding_size=32"],
)
run = charlm.train(config, steps=1200, evaluations=5, out=RUNS / "elman", progress=False)
run

# %% [markdown]
# Is it really the same network? We copy charlm's weights into our numpy arrays, and compare loss
# and gradient on a piece of the held-out text. (charlm has two biases, as torch does; only their
# sum matters. A text begins and ends with the token `<EOS>`.)

# %%
model = copy.deepcopy(run.model).double()
layer = model.encoder.recurrence.layers[0]
parameters = {
    "E": model.encoder.embedding.weight,
    "Wx": layer.input.weight,
    "Wh": layer.recurrent.weight,
    "b": layer.input.bias,
    "Wy": model.projection.weight,
    "c": model.projection.bias,
}
weights = {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}
weights["b"] += layer.recurrent.bias.detach().numpy()

SENTENCE = "The function returns a list of strings."
targets = np.array([*run.tokenizer.encode(SENTENCE).tolist(), EOS])
inputs = np.array([EOS, *targets[:-1]])
states, probabilities = forward(weights, inputs, np.zeros(len(weights["b"])))
by_hand = backward(weights, inputs, targets, states, probabilities)

logits, _ = model(torch.from_numpy(inputs)[:, None])
total = torch.nn.functional.cross_entropy(logits[:, 0], torch.from_numpy(targets), reduction="sum")
total.backward()

print(f"loss by hand {loss(probabilities, targets):.10f}, in charlm {total.item():.10f} nats")
assert abs(loss(probabilities, targets) - total.item()) < 1e-8
for name, parameter in parameters.items():
    difference = np.abs(by_hand[name] - parameter.grad.numpy()).max()
    print(f"{name:<3} largest difference of the gradients: {difference:.1e}")
    assert difference < 1e-8

# %% [markdown]
# charlm's score of the same sentence is the same sum. It divides it by the number of characters,
# and by $\ln 2$ to have bits.

# %%
score = run.perplexity(SENTENCE)
print(
    f"{score.loss_nats * score.tokens:.4f} nats, {score.bits_per_character:.3f} bits per character"
)
assert abs(score.loss_nats * score.tokens - total.item()) < 1e-3

# %%
print(run.sample(temperature=0.7, length=300, seed=2)[0].text)

# %% [markdown]
# ## 7. What did it learn?
#
# The report shows how the loss fell, and which characters of a held-out passage surprise the
# network: the first letters of words are hard to predict, and the following ones are easier. Point
# at a character to see what the network expected.

# %%
report = run.report(sections=("curves", "surprisal", "memory"), passage_tokens=300)
report

# %% [markdown]
# Each figure of the report can be shown by itself.

# %%
report.figures["known-letters"]

# %% [markdown]
# How much is a letter worth? The surprisal of a character, by its position in the word:

# %%
surprisal = run.surprise(limit=5000, show=0)
for row in surprisal.by_position[:6]:
    print(f"character {row['position']} of a word: {row['surprise_bits']:.2f} bits")
first, third = (row["surprise_bits"] for row in surprisal.by_position[:3:2])
print(f"The first character of a word costs {first / third:.1f} times as much as the third.")

# %% [markdown]
# ## Exercises
#
# 1. Leave `from_later` out of `backward`. Which of the checks fail, and for which weights? Does the
#    network still learn?
# 2. Set `Wh` to zero in the trained numpy network, and measure the loss again. What does the
#    network know without a memory?
# 3. Replace tanh by the logistic function in `forward`. What changes in `backward`? Compare with
#    `model.cell={kind: elman, activation: sigmoid}` in charlm.
# 4. Remove the limit of the norm in section 4, and raise `RATE` until the training fails. What does
#    the norm do before it fails?
# 5. Train with `model.cell=lstm` for the same number of steps. Which is better per step, which per
#    second, and which per parameter? `run.compare([other])` prints an interval.
