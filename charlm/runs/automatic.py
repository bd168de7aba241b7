"""Settings for a text, a device and the time given, where nobody has named them; with the reasons.

The rules are fits to what was measured (docs/results.md), good to a few hundredths of a nat, not laws. Whatever the
caller has set already is kept, and the rest is chosen to fit it.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, repeat
from typing import Any

import torch

from charlm.config.load import check_config, load_config, override
from charlm.config.schema import (
    BUDGETS,
    VOCABULARY_SIZES,
    Config,
    Level,
    Mode,
    ResolvedConfig,
    Training,
)
from charlm.data.cards import Card
from charlm.data.corpus import Corpus, open_corpus
from charlm.data.resolve import card_of, resolve
from charlm.data.utf8 import count_characters
from charlm.data.windows import Position, Window
from charlm.model.language_model import LanguageModel
from charlm.training.devices import Hardware, choose_device, choose_precision, fast_math
from charlm.training.loop import TrainingState, train
from charlm.training.objective import LanguageModelObjective
from charlm.training.optimizer import make_optimizer

Measure = Callable[
    [int], float
]  # Tokens a second that a network of so many units reads while it learns.

_LOOKED_AT = (
    16  # Blocks of a megabyte or two: a large text may begin with fewer characters than it has.
)
_HELD_OUT = 200_000  # Characters that a loss is known from to a hundredth of a nat: more would cost time alone.
_SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
_MEASURED_SIZES, _MEASURED_SECONDS, _UNMEASURED_STEPS = (128, 256, 512), 0.5, 3
_CHARACTERS_PER_TOKEN = {"char": 1.0, "byte": 1.0, "word": 4.5, "bpe": 3.0}
_READ_AS = {"stream": "one long text", "records": "records, a line each"}
_LEAST_STEPS = 8  # In a pass: a short text has fewer streams.
_MANY_STEPS = 20_000  # From here on twice the batch costs no quality, and less time a token.
# Records are lines that stand for themselves: many, short, none empty or indented, few alike.
_RECORD_LINES, _RECORD_LENGTH, _RECORD_ODD, _RECORD_ALIKE = 200, 80, 0.01, 0.3


@dataclass(frozen=True)
class Text:
    """What the choice is made from.

    Attributes:
        title: What people call it.
        characters: Of the training part, about.
        mode: How it is read.
        level: Of its tokens.
        alphabet: Different characters, or bytes, in its first megabytes.
        record_tokens: In a record, on average, <EOS> included.
        why: Of the mode.
    """

    title: str
    characters: int
    mode: Mode
    level: Level
    alphabet: int
    record_tokens: int
    why: str

    @property
    def tokens(self) -> float:
        """Of the training part, about."""
        return max(1.0, self.characters / _CHARACTERS_PER_TOKEN[self.level])

    @property
    def rule(self) -> "_Rule":
        """How settings follow from it."""
        return _RULES[self.mode, self.level in ("word", "bpe")]


@dataclass(frozen=True)
class _Rule:
    """How settings follow from the size of the text and of the budget.

    Attributes:
        words: Whether tokens are pieces of words rather than characters.
        optimizer: As it is.
        batch_size: Streams or records, where there are enough.
        window: Tokens in a window.
        tokens: To be read for a network of 256 units to be the best size; as many times more as it has parameters.
        rate: Learning rate of 256 units, for a few thousand steps.
        dropout: Share of the output dropped for each doubling of the passes over the text.
        undropped: Passes up to which nothing is dropped.
    """

    words: bool
    optimizer: str
    batch_size: int
    window: int
    tokens: float
    rate: float
    dropout: float
    undropped: float

    def hidden_size(self, text: Text, tokens_read: Callable[[int], float]) -> int:
        """Return the largest size that reads enough for its parameters, and has not too many for the text."""
        most = 72 * (text.tokens / 3000) ** 0.4
        fitting = [
            size
            for size in _SIZES
            if size <= most and tokens_read(size) >= self.tokens * (size / 256) ** 2
        ]
        return max(fitting, default=_SIZES[0])

    def learning_rate(self, hidden_size: int, steps: float) -> float:
        """Return the peak rate: the lower, the longer the training and, but for muon, the wider the network."""
        width = 1.0 if self.optimizer == "muon" else (256 / hidden_size) ** 0.5
        return float(f"{min(self.rate * width * min(1.0, 4000 / steps) ** 0.3, _HIGHEST_RATE):.2g}")

    def output_dropout(self, passes: float) -> float:
        """Return the share that is dropped where a text is read so many times."""
        return round(
            min(0.5, max(0.0, self.dropout * math.log2(max(passes, 1e-9) / self.undropped))), 2
        )


_STREAM = _Rule(False, "muon", 32, 64, 1.6e6, 4.0e-2, 0.15, 3.0)
_RECORDS = _Rule(False, "adamw", 64, 64, 2.0e6, 8.0e-3, 0.1, 2.0)
_SMALL = _Rule(
    False, "adamw", 16, 64, 2.0e6, 1.6e-2, 0.1, 2.0
)  # Muon learns a small text by heart too soon.
_WORDS = _Rule(True, "muon", 16, 32, 0.8e6, 2.0e-2, 0.15, 0.5)
_RULES: dict[tuple[Mode, bool], _Rule] = {
    ("stream", False): _STREAM,
    ("records", False): _RECORDS,
    ("stream", True): _WORDS,
    ("records", True): replace(_WORDS, batch_size=64),
}
_MOST_PASSES, _HIGHEST_RATE = 60.0, 4.0e-2


@dataclass(frozen=True)
class Choice:
    """A configuration, and why it is as it is.

    Attributes:
        config: Complete.
        reasons: A line each on text, network, training and dropout.
    """

    config: Config
    reasons: tuple[str, ...]


def choose(overrides: Sequence[str] = (), *, measure: Measure | None = None) -> Choice:
    """Choose what `overrides` leave open.

    Args:
        overrides: `section.key=value`, the text and the budget among them.
        measure: Tells the speed of the device; by default it is measured, in about two seconds.

    Raises:
        CharlmError: An override is wrong, or the text cannot be read.
    """
    given = load_config(None, overrides)
    resolved, corpus, text = _look_at(given)
    plan = _plan(given, text, measure or _measured(given.training, text))
    fields = {"corpus": corpus, "tokenizer": {"level": text.level}, **_fields(given, text, plan)}
    # The text as it was opened, for standard input is read once; fewer passes than there is time for, for the time.
    found = [f"corpus.text={json.dumps(resolved.corpus.text)}"]
    found += [f"training.epochs={plan.passes}"] if plan.is_cut else []
    chosen = check_config(override(fields, [*overrides, *found]), "chosen")
    return Choice(chosen, _reasons(given, text, plan, chosen))


def _look_at(given: Config) -> tuple[ResolvedConfig, dict[str, Any], Text]:
    """Return the resolved configuration, the corpus fields that are chosen, and what the text is."""
    card, resolved = card_of(given.corpus), resolve(given)
    level = resolved.tokenizer.level
    opened = open_corpus(resolved)
    blocks = [block for block, _ in islice(opened.parts["train"].blocks(), _LOOKED_AT)]
    sample, letters = blocks[0], set[str | int]()
    for block in blocks:
        letters.update(block if level == "byte" else block.decode())
    mode, why = _mode_of(given, card, opened, sample)
    share = 1.0 if level == "byte" else count_characters(sample) / max(len(sample), 1)
    characters = round(opened.parts["train"].size * share)
    fields: dict[str, Any] = {"mode": mode}
    share_is_open = given.corpus.valid_share is None and not (card and card.valid_share is not None)
    if share_is_open and "valid" in opened.parts and given.corpus.valid_text is None:
        whole = (opened.parts["train"].size + opened.parts["valid"].size) * share
        fields["valid_share"] = held_out = float(f"{min(0.1, _HELD_OUT / max(whole, 1)):.2g}")
        characters = round(whole * (1 - held_out))
    lines = [line for line in sample.splitlines() if line]
    record_tokens = 1 + round(len(sample) / max(len(lines), 1) / _CHARACTERS_PER_TOKEN[level])
    title = card.title if card else ", ".join(given.corpus.text)
    return resolved, fields, Text(title, characters, mode, level, len(letters), record_tokens, why)


def _mode_of(given: Config, card: Card | None, corpus: Corpus, sample: bytes) -> tuple[Mode, str]:
    """Return how the text is best read, and why."""
    if given.corpus.mode or card:
        return corpus.mode, "as asked for" if given.corpus.mode else "as its card says"
    lines = sample.splitlines()
    odd = sum(not line.strip() or line[:1].isspace() for line in lines) / max(len(lines), 1)
    lengths = sorted(map(len, lines))
    alike = 1 - len(set(lines)) / max(len(lines), 1)
    if len(lines) < _RECORD_LINES or odd > _RECORD_ODD or alike > _RECORD_ALIKE:
        return "stream", "its lines go on from one another"
    if lengths[len(lines) * 99 // 100] > _RECORD_LENGTH:
        return "stream", "its lines are long"
    return "records", "its lines are many, short, and none is empty or indented"


@dataclass(frozen=True)
class _Plan:
    """The size of the network and of the training, from which all else follows.

    Attributes:
        hidden_size: Units.
        batch_size: Streams or records.
        length: Tokens of each in a step, about.
        passes: Over the text.
        is_cut: Whether there is time for more passes than that.
    """

    hidden_size: int
    batch_size: int
    length: int
    passes: float
    is_cut: bool

    def steps(self, text: Text) -> float:
        """Return how many steps that is."""
        return max(1.0, self.passes * text.tokens / (self.batch_size * self.length))


def _plan(given: Config, text: Text, measure: Measure) -> _Plan:
    """Return how large network and training are to be."""
    rule, training = text.rule, given.training
    is_given = training.model_fields_set
    window = training.window if "window" in is_given else rule.window
    batch = training.batch_size if "batch_size" in is_given else rule.batch_size
    while (
        text.mode == "stream"
        and "batch_size" not in is_given
        and batch > 1
        and (batch * window > text.tokens / _LEAST_STEPS)
    ):
        batch //= 2
    length = min(window, text.record_tokens) if text.mode == "records" else window

    def tokens_read(hidden_size: int) -> float:
        if training.minutes is not None:
            return measure(hidden_size) * training.minutes * 60
        return (
            training.steps * batch * length
            if training.steps
            else (training.epochs or 1.0) * text.tokens
        )

    sized = "hidden_size" in given.model.model_fields_set
    hidden = given.model.hidden_sizes[0] if sized else rule.hidden_size(text, tokens_read)
    passes = tokens_read(hidden) / text.tokens
    is_cut = training.minutes is not None and passes > _MOST_PASSES
    plan = _Plan(hidden, batch, length, _MOST_PASSES if is_cut else passes, is_cut)
    if text.mode == "stream" and "batch_size" not in is_given and plan.steps(text) > _MANY_STEPS:
        return replace(plan, batch_size=2 * batch)
    return plan


def _fields(given: Config, text: Text, plan: _Plan) -> dict[str, dict[str, Any]]:
    """Return what follows from the plan, by sections of the configuration."""
    rule, hidden, steps = text.rule, plan.hidden_size, plan.steps(text)
    if rule is _STREAM and plan.is_cut:
        rule = _SMALL
    dropout = rule.output_dropout(plan.passes)
    tied = rule.words and given.model.embedding == "learned" and not given.model.adaptive_cutoffs
    model = {
        "hidden_size": hidden,
        "embedding_size": hidden if rule.words else max(16, hidden // 4),
        "tied": tied,
        "output_dropout": dropout,
        "embedding_dropout": round(max(0.0, dropout - 0.25), 2),
    }
    training: dict[str, Any] = {
        "batch_size": plan.batch_size,
        "window": rule.window,
        "optimizer": rule.optimizer,
        "warmup_steps": round(min(100, steps / 10)),
        "clipnorm": float(plan.length),
        "evaluations": 20 if steps > _MANY_STEPS else 10 if plan.is_cut else 5,
    }
    if (
        "optimizer" not in given.training.model_fields_set
        or given.training.optimizer == rule.optimizer
    ):
        training["learning_rate"] = rule.learning_rate(
            hidden, steps
        )  # Another optimizer wants another rate.
    return {"model": model, "training": training}


def _reasons(given: Config, text: Text, plan: _Plan, chosen: Config) -> tuple[str, ...]:
    """Return a line each on text, network, training and dropout."""
    name, amount = next(
        (name, getattr(given.training, name)) for name in BUDGETS if getattr(given.training, name)
    )
    budget = f"{amount:,g} {name if amount != 1 else name[:-1]}"
    model, training = chosen.model, chosen.training
    passes = f"{plan.passes:.1f} passes over the text"
    why = (
        "as given"
        if "hidden_size" in given.model.model_fields_set
        else f"what {budget} and so much text can train"
    )
    cut = f", not all of {budget}: more would be learning by heart" if plan.is_cut else ""
    return (
        f"text: {text.title}, {text.characters:,} characters to learn from, by {text.level}, as {_READ_AS[text.mode]}: "
        f"{text.why}",
        f"network: {', '.join(map(str, model.hidden_size))} units, {why}",
        f"training: {plan.steps(text):,.0f} steps of {training.batch_size} x {plan.length} tokens at a rate of "
        f"{training.learning_rate:.2g}, {passes}{cut}",
        f"dropout: {model.output_dropout:.2g} of the output, {model.embedding_dropout:.2g} of the embedding, "
        + (f"for {passes}" if model.output_dropout else "as little is read twice"),
    )


def _measured(given: Training, text: Text) -> Measure:
    """Return the device's speed by size, from a few steps of three sizes; between and beyond them by their arithmetic.

    It is measured when first asked for: where size and steps are given, nobody asks.
    """
    device = choose_device(given.device)
    precision, vocabulary = (
        choose_precision(given.precision, device),
        VOCABULARY_SIZES[text.level] or text.alphabet + 2,
    )
    training: dict[str, Any] = {"steps": 10**9}
    for name in ("optimizer", "batch_size", "window"):
        training[name] = getattr(given if name in given.model_fields_set else text.rule, name)
    if text.mode == "records":
        training["window"] = min(training["window"], text.record_tokens)
    found: dict[int, float] = {}

    def speed(hidden_size: int) -> float:
        if not found:
            found.update(
                {
                    size: _measure(size, vocabulary, training, device, precision)
                    for size in _MEASURED_SIZES
                }
            )
        nearest = min(found, key=lambda size: abs(math.log(size / hidden_size)))
        return found[nearest] * _work(nearest, vocabulary) / _work(hidden_size, vocabulary)

    return speed


def _work(hidden_size: int, vocabulary: int) -> float:
    """Return the multiplications of a token, about."""
    return 4 * hidden_size * (hidden_size + 64) + hidden_size * vocabulary


def _measure(
    hidden_size: int,
    vocabulary: int,
    training: dict[str, Any],
    device: torch.device,
    precision: torch.dtype,
) -> float:
    """Return the tokens a second of a training's steps."""
    config = check_config({"model": {"hidden_size": hidden_size}, "training": training}, "measured")
    section = config.training
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(config.model, vocabulary).to(device)
        ids = torch.randint(vocabulary, (section.window + 1, section.batch_size))
    window = Window(ids[:-1], ids[1:], False, Position(), 0.0, ids.shape[1])
    state, began = TrainingState(), time.perf_counter()
    steps = train(
        LanguageModelObjective(model, section, Hardware(device, precision)),
        repeat(window),
        make_optimizer(model, section, precision=precision),
        section,
        state=state,
        clock=time.perf_counter,
    )
    with fast_math():
        for progress in steps:
            if state.step == _UNMEASURED_STEPS:  # The first ones build kernels.
                first_tokens, first_seconds = state.tokens, state.seconds
            if state.step > _UNMEASURED_STEPS and time.perf_counter() - began > _MEASURED_SECONDS:
                progress.check_finite()  # Waits for the device.
                break
    return (state.tokens - first_tokens) / (state.seconds - first_seconds)
