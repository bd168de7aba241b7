# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
# ---

# %% [markdown]
# # What does a cell remember?
#
# An LSTM reads a text and keeps a vector of 64 numbers in its memory. Does any single number mean
# anything? Karpathy et al. 2015 (arXiv:1506.02078) found units that are high inside quotation
# marks. Nobody had told the network what a quotation is: it had only learned to predict characters.
#
# This notebook looks for such units, asks whether a find could be luck, and then takes a unit away.

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import charlm
from charlm.evaluation.probes.cells import find_units, label_tokens, read_units
from charlm.evaluation.probes.labels import label_characters
from charlm.model_texts import text_to_score

FOLDER = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. A language in which something must be remembered
#
# Random words of the letters a to d. Some phrases are in quotation marks, some in brackets. The
# letters say nothing about what comes next, so the loss can only fall by remembering what is open:
# a closing mark comes only after an opening one.

# %%
random = np.random.default_rng(1)


def make_text(characters):
    """Return random phrases, some of them in quotation marks, some in brackets."""
    text = ""
    while len(text) < characters:
        phrase = "".join(random.choice(list("abcd "), size=random.integers(4, 30))).strip() or "a"
        text += random.choice([phrase, f'"{phrase}"', f"({phrase})"], p=[0.4, 0.4, 0.2])
        text += "\n\n" if random.random() < 0.1 else " "
    return text


path = FOLDER / "phrases.txt"
path.write_text(make_text(60_000), encoding="utf-8")
print(path.read_text(encoding="utf-8")[:300])

# %%
config = charlm.load_config(
    None,
    [
        f"corpus.text={path}",
        "model.cell=lstm",
        "model.hidden_size=64",
        "training.batch_size=16",
        "training.window=64",
        "training.learning_rate=8e-3",
    ],
)
run = charlm.train(config, steps=1000, evaluations=4, out=FOLDER / "run", progress=False)
run

# %% [markdown]
# ## 2. A label, and 128 candidates
#
# A label is what we ask for: at each position, is the text inside quotation marks?

# %%
sample = 'ab "cd a" (b)'
for label in label_characters(sample):
    if label.name in ("inside quotation marks", "bracket depth"):
        digits = "".join(f"{value:.0f}" for value in label.values)
        print(f"{sample}    the text\n{digits}    {label.name}")

# %% [markdown]
# A candidate is a number that changes with the text: each of the 64 units of $h$ and of $c$. For a
# label of two values, the score of a unit is the area under the ROC curve (AUC): take a position
# inside a quotation and one outside; how often is the unit higher inside? 0.5 is guessing, and 1 is
# always. For a number such as the depth of brackets, it is the rank correlation.
#
# The best of 128 candidates is good by luck alone, on the text where it was chosen. So the unit is
# chosen on one half of the held-out text, and scored on the other half.

# %%
cells = run.cells()
for row in cells.best:
    unit = f"{'c' if row.unit.part == 'memory' else 'h'}{row.unit.number}"
    print(
        f"{row.label:<24} {row.measure:<12} {row.score:.3f}  control {row.control:.3f}  unit {unit}"
    )
for name, reason in cells.omitted.items():
    print(f"{name:<24} not measured: {reason}")

# %% [markdown]
# ## 3. Why a control, and which one?
#
# Neighbouring characters have the same label and nearly the same state. So a text of 6,000
# characters has far fewer than 6,000 independent positions, and a unit that changes slowly matches
# any label that changes slowly on some stretch. A control must keep this. charlm shifts the labels
# along the text, which keeps everything about them except their relation to the text. Shuffling the
# labels destroys their slowness too, and lets almost every find look significant.
#
# Watch both controls on labels that *cannot* mean anything: slow random waves, unrelated to the
# text.

# %%
tokens = text_to_score(run.trained).tokens.ids[:6000].astype(np.int64)
units = read_units(run.model, tokens, mode="stream")
quotation = label_tokens(tokens, run.tokenizer, records=False)[0]


def best_score(label):
    """Return the score of the unit that follows a label best."""
    return find_units(units, [label], shifts=1, seed=1).best[0].score


def largest(make_label, times=20):
    """Return the largest of the best scores of several labels."""
    return max(best_score(make_label()) for _ in range(times))


def shifted():
    """Return the label, moved along the text by a random distance."""
    distance = random.integers(len(tokens) // 10, len(tokens) * 9 // 10)
    return replace(quotation, values=np.roll(quotation.values, distance))


def shuffled():
    """Return the label with its positions in random order."""
    return replace(quotation, values=random.permutation(quotation.values))


def wave():
    """Return a label that is 1 for some hundred characters and then 0, anywhere."""
    time = np.arange(len(tokens))
    wave = np.sin(2 * np.pi * time / random.uniform(600, 3000) + random.uniform(0, 2 * np.pi))
    return replace(quotation, values=(wave > 0).astype(float))


score, shift, shuffle = best_score(quotation), largest(shifted), largest(shuffled)
print(f"inside quotation marks:        AUC {score:.3f}")
print(f"the same label, shifted:       at most {shift:.3f}")
print(f"the same label, shuffled:      at most {shuffle:.3f}")
print(f"slow waves that mean nothing:  at most {largest(wave):.3f}")
print(f"Above the shifted control: {score - shift:+.3f}.")
print(f"Above the shuffled control: {score - shuffle:+.3f}.")

# %% [markdown]
# A score is evidence only as far as it is above the *shifted* control.
#
# ## 4. Look at it
#
# The passage is coloured by the value of the unit that follows the chosen label best. Choose
# another label, or select a range of the text to see which units are high throughout.

# %%
report = run.report(sections=("cells",))
report

# %% [markdown]
# The gates of the same network: how often is each open, and how often closed?

# %%
report.figures["gates"]

# %% [markdown]
# ## 5. Take it away
#
# A unit that follows quotations need not be one that the network *uses*. We hold one unit of the
# memory at a constant value, its mean, and predict the text again. What happens to the prediction
# of the closing mark?

# %%
best = next(row for row in cells.best if row.label == "inside quotation marks")
layer = run.model.encoder.recurrence.layers[0]
size = layer.hidden_size
means = torch.from_numpy(units.values.mean(axis=0))
id_of = {token: run.tokenizer.encode(token).tolist()[0] for token in '"()'}


@torch.inference_mode()
def losses(held=None):
    """Return the loss of each token but the first; `held` is a column of `units` to hold."""
    state = layer_state = run.model.initial_states(1)[0]
    result = []
    for token, target in zip(tokens[:2000].tolist(), tokens[1:2001].tolist(), strict=True):
        x = run.model.encoder.embedding(torch.tensor([[token]]))
        state = layer.step(layer.project(x)[0], layer_state)
        if held is not None:
            part, unit = divmod(held, size)
            state[part][0, unit] = means[held]
        layer_state = state
        log_p = run.model.projection(run.model.adapt(layer.output(state))).log_softmax(dim=-1)
        result.append(-float(log_p[0, target]))
    return np.array(result)


def describe(values):
    """Return the mean loss at closing quotation marks, at closing brackets, and elsewhere."""
    following = tokens[1:2001]
    # A quotation mark closes if the position before it is inside a quotation.
    closes = (following == id_of['"']) & (quotation.values[:2000] == 1)
    brackets = following == id_of[")"]
    elsewhere = ~closes & ~brackets
    names = {'closing "': closes, "closing )": brackets, "elsewhere": elsewhere}
    return ", ".join(f"{name} {values[chosen].mean():.2f}" for name, chosen in names.items())


column = units.units.index(best.unit)
other = next(
    number
    for number, unit in enumerate(units.units)
    if unit.part == best.unit.part and unit.number == (best.unit.number + 1) % size
)
intact, without_best, without_other = losses(), losses(column), losses(other)
print(f"nats, intact network:        {describe(intact)}")
print(f"best unit held constant:     {describe(without_best)}")
print(f"another unit held constant:  {describe(without_other)}")
print(
    f"Holding the best unit costs {without_best.mean() - intact.mean():+.3f} nats per character, "
    f"the other one {without_other.mean() - intact.mean():+.3f}."
)

# %% [markdown]
# A closing mark that becomes a surprise shows that the network uses the unit. Where the cost is
# small, the network keeps the same fact in several units: the probe tells where a fact can be
# *read*, and only taking the unit away tells whether it is *used*.
#
# ## 6. A real language
#
# Python's source code has quotation marks, brackets, comments and indentation. A short training is
# enough for some of them.

# %%
config = charlm.load_config(
    None,
    [
        "corpus.text=python-source",
        "model.cell=lstm",
        "model.hidden_size=96",
        "training.batch_size=16",
        "training.window=64",
        "training.learning_rate=8e-3",
    ],
)
source = charlm.train(config, steps=800, evaluations=2, out=FOLDER / "source", progress=False)
for row in source.cells(tokens=10_000).best:
    verdict = "follows" if row.score > row.control + 0.1 else "does not clearly follow"
    print(
        f"the best unit {verdict} '{row.label}': {row.measure} {row.score:.2f}, "
        f"control {row.control:.2f}"
    )

# %% [markdown]
# ## Exercises
#
# 1. Train with 16 units and with 256. In which network is the best unit better, and why might a
#    large network need no single unit for a quotation?
# 2. `model.cell=elman`: does an Elman network have a unit for quotations? For the depth of
#    brackets?
# 3. Write a label of your own with `Label` from `charlm.evaluation.probes.labels`: for example, the
#    number of characters since the last vowel. Is there a unit for it?
# 4. Repeat section 2 with a network before its training (`steps=1`). Which labels does an untrained
#    network follow? What does that say about position in the word?
# 5. In section 5, hold the two, four, eight best units at once. When does the closing mark become a
#    surprise?
