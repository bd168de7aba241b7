"""Settings that charlm chooses for a text, a device and a budget, with the reasons.

Fields that the user has set stay as they are, and the others are chosen to fit them. The rules are
fits to measurements (docs/results.md): good to a few hundredths of a nat, but not laws.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlm.config.load import check_config, load_config, override
from charlm.config.schema import (
    TOKEN_NAMES,
    VOCABULARY_SIZES,
    Config,
    Level,
    Mode,
    Record,
    ResolvedConfig,
)
from charlm.config.schema import Model as ModelSection
from charlm.config.schema import Training as TrainingSection
from charlm.data.cards import Card
from charlm.data.corpus import Corpus, Text, open_corpus
from charlm.data.lines import choose_reading, measure_lines
from charlm.data.listing import shown_names
from charlm.data.resolve import card_of, resolve
from charlm.data.sources import are_tables
from charlm.data.utf8 import split_lines, strip_line_end
from charlm.runs.speed import Speed, measured_speed
from charlm.runs.warm_start import Ancestor, inherit
from charlm.storage.memory_maps import BLOCK_BYTES
from charlm.training.devices import Hardware, choose_device, choose_precision

_HIDDEN_SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
_CHARACTERS_PER_TOKEN = {"char": 1.0, "byte": 1.0, "word": 4.5, "bpe": 3.0}
_READING = {
    "stream": "reading one long text",
    "line": "reading one record per line",
    "document": "reading one record per document",
}
# The first megabyte may lack characters of the others.
_BYTES_READ = 16 * BLOCK_BYTES
_OTHER_MODE = {
    "stream": "if each line is a text of its own, add --set corpus.mode=records",
    "records": "if the lines belong together, add --set corpus.mode=stream",
}
# Characters from which a loss is known to a hundredth of a nat. Scoring more would only take time.
_VALIDATION_CHARACTERS = 200_000
_MIN_STEPS_PER_PASS = 8  # A short text is read in fewer streams.
# From this number of steps on, twice the batch costs no quality and less time per token.
_MANY_STEPS = 20_000
_MAX_PASSES = 60.0
# Of characters (docs/lab/ngram-embeddings-2026-11-26.md).
_MAX_PASSES_WITH_NGRAMS = 2.0
_NGRAMS = 4
# Fields that change the speed of a network, and stay if they are set. So does `num_layers`, which
# follows from a list of hidden sizes where it is not set.
_ARCHITECTURE = {
    *("cell", "block", "mlp_expansion", "mixture"),
    *("embedding_size", "ngram_buckets", "ngram_width"),
}
# Of trained weights (`--from`): their peak rate, as a fraction of that of random ones, and the
# fraction of the old text, which costs nothing on the new one.
_TRAINED_RATE = 0.3
_REPLAY = 0.1
_DROPOUT = ("output_dropout", "embedding_dropout")
_MAX_LEARNING_RATE = 4.0e-2
_MIN_WEIGHT_DECAY = 0.1
_PASSES_PER_DECAY = 80.0  # A weight decay of 0.1 up to 8 passes, of 0.3 from 24 passes on.
# Weights are an average of their updates over the last 1 / (rate x decay) steps (Wang and Aitchison
# 2024, arXiv:2405.13698). A training of many passes is best if it has about this number of such
# times (docs/lab/2026-11-27.md).
_AVERAGING_TIMES = 30.0
# With fewer passes, streams that begin at other places in each pass were not measured.
_MIN_PASSES_SHUFFLED = 8.0
# Steps so large that the same device measured twice leads to the same settings: passes differ by
# a quarter between two values of dropout, and by a factor of two between two rates.
_DROPOUT_STEP = 0.05
_DECAY_STEP = 0.05
_RATES_PER_DECADE = 10
# Documents are records if they are many and short.
_MIN_DOCUMENTS = 200
_MAX_DOCUMENT_BYTES = 2000


@dataclass(frozen=True)
class TextFacts:
    """Facts about a text from which settings are chosen.

    Attributes:
        title: Title of the text.
        characters: Approximate number of characters of the training part; in records mode without
            line ends and separators.
        mode: How the text is read.
        reading: How it is read and why, in words.
        level: Level of the tokens.
        alphabet_size: Number of different characters in the first blocks; 256 for bytes.
        record_tokens: Mean number of tokens per line or document, with <EOS>: at least 2.
    """

    title: str
    characters: int
    mode: Mode
    reading: str
    level: Level
    alphabet_size: int
    record_tokens: int

    @property
    def tokens(self) -> float:
        """Approximate number of tokens of the training part, with the <EOS> of each record."""
        tokens = self.characters / _CHARACTERS_PER_TOKEN[self.level]
        if self.mode == "records":
            tokens *= self.record_tokens / (self.record_tokens - 1)
        return max(1.0, tokens)

    @property
    def recipe(self) -> "Recipe":
        """The recipe for such a text."""
        return _RECIPES[self.mode, self.level in ("word", "bpe")]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How settings follow from the size of the text and from the budget.

    Attributes:
        tokens_are_words: Whether tokens are words or parts of words, rather than characters.
        optimizer: Name of the optimizer.
        batch_size: Number of streams or records per step, for a text that has enough of them.
        window: Tokens per window.
        tokens_for_256_units: Number of training tokens from which 256 units are the best size. It
            grows in proportion to the number of parameters.
        learning_rate: Peak rate for 256 units and a few thousand steps.
        dropout_per_doubling: Output dropout added by each doubling of the passes over the text.
        passes_without_dropout: Number of passes up to which there is no dropout.
        passes_with_ngrams: Number of passes up to which the input has n-grams. In further passes
            their tables memorize the text.
        max_weight_decay: Weight decay for many passes over the text.
    """

    tokens_are_words: bool = False
    optimizer: str
    batch_size: int
    window: int
    tokens_for_256_units: float
    learning_rate: float
    dropout_per_doubling: float
    passes_without_dropout: float
    max_weight_decay: float
    passes_with_ngrams: float = 0.0

    def hidden_size(self, text: TextFacts, trained_tokens: Callable[[int], float]) -> int:
        """Return the largest size that the budget can train and the text is large enough for.

        Args:
            text: The text.
            trained_tokens: Function from the hidden size to the number of tokens in the budget.
        """
        largest = 72 * (text.tokens / 3000) ** 0.4
        sizes = [
            size
            for size in _HIDDEN_SIZES
            if size <= largest
            and trained_tokens(size) >= self.tokens_for_256_units * (size / 256) ** 2
        ]
        return max(sizes, default=_HIDDEN_SIZES[0])

    def peak_rate(self, hidden_size: int, steps: float) -> float:
        """Return the peak learning rate.

        It falls with the number of steps and, except with muon, with the width of the network.
        """
        width = 1.0 if self.optimizer == "muon" else (256 / hidden_size) ** 0.5
        rate = self.learning_rate * width * min(1.0, 4000 / steps) ** 0.3
        return _round_rate(min(rate, _MAX_LEARNING_RATE))

    def output_dropout(self, passes: float) -> float:
        """Return the output dropout for a number of passes over the text."""
        doublings = math.log2(max(passes, 1e-9) / self.passes_without_dropout)
        dropout = min(0.5, max(0.0, self.dropout_per_doubling * doublings))
        return _round(dropout, _DROPOUT_STEP)

    def weight_decay(self, passes: float, steps: float, rate: float) -> float:
        """Return the weight decay, which rises with the passes, and falls with steps and rate.

        Args:
            passes: Number of passes over the text.
            steps: Number of steps.
            rate: Peak learning rate.
        """
        wanted = min(passes / _PASSES_PER_DECAY, _AVERAGING_TIMES / (rate * steps))
        decay = min(self.max_weight_decay, max(_MIN_WEIGHT_DECAY, wanted))
        return _round(decay, _DECAY_STEP)


def _round(value: float, step: float) -> float:
    """Return the nearest multiple of a step of hundredths."""
    return round(round(value / step) * step, 2)


def _round_rate(rate: float) -> float:
    """Return the nearest of ten rates per decade, as 0.0316 to 0.032."""
    exponent = round(_RATES_PER_DECADE * math.log10(rate)) / _RATES_PER_DECADE
    return float(f"{10**exponent:.2g}")


_STREAM = Recipe(
    optimizer="muon",
    batch_size=32,
    window=64,
    tokens_for_256_units=1.6e6,
    learning_rate=4.0e-2,
    dropout_per_doubling=0.15,
    passes_without_dropout=3.0,
    passes_with_ngrams=_MAX_PASSES_WITH_NGRAMS,
    max_weight_decay=0.3,
)
_RECORDS = Recipe(
    optimizer="adamw",
    batch_size=64,
    window=64,
    tokens_for_256_units=2.0e6,
    learning_rate=8.0e-3,
    dropout_per_doubling=0.1,
    passes_without_dropout=2.0,
    max_weight_decay=_MIN_WEIGHT_DECAY,
)
_WORDS = Recipe(
    tokens_are_words=True,
    optimizer="muon",
    batch_size=16,
    window=32,
    tokens_for_256_units=0.8e6,
    learning_rate=2.0e-2,
    dropout_per_doubling=0.15,
    passes_without_dropout=0.5,
    max_weight_decay=0.3,
)
_RECIPES: dict[tuple[Mode, bool], Recipe] = {
    ("stream", False): _STREAM,
    ("records", False): _RECORDS,
    ("stream", True): _WORDS,
    ("records", True): replace(_WORDS, batch_size=64, max_weight_decay=_MIN_WEIGHT_DECAY),
}


class _BatchShape(NamedTuple):
    """Shape of a step.

    Attributes:
        batch_size: Number of streams or records.
        length: Approximate number of tokens of each of them.
    """

    batch_size: int
    length: int

    def steps_per_pass(self, text: TextFacts) -> int:
        """Return the number of steps of a pass over a text; the last one may be smaller."""
        return math.ceil(text.tokens / (self.batch_size * self.length))


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Size of the network and length of the training, from which the other settings follow.

    Attributes:
        hidden_size: Number of units.
        shape: Shape of a step.
        passes: Number of passes over the text.
        stops_early: Whether the budget would last for more passes.
    """

    hidden_size: int
    shape: _BatchShape
    passes: float
    stops_early: bool

    def steps(self, text: TextFacts) -> float:
        """Return the number of steps."""
        return max(1.0, self.passes * self.shape.steps_per_pass(text))


class ChosenConfig(NamedTuple):
    """A chosen configuration.

    Attributes:
        config: The complete configuration.
        reasons: One line each about text, network, training and dropout.
    """

    config: Config
    reasons: tuple[str, ...]


def choose(
    overrides: Sequence[str] = (),
    *,
    speed: Speed | None = None,
    ancestor: Ancestor | None = None,
) -> ChosenConfig:
    """Choose the fields of a configuration that `overrides` leave open.

    Args:
        overrides: Fields as `section.key=value`, with the text and the budget among them.
        speed: Function from the hidden size to the tokens per second of training on this device.
            By default it is measured, which takes about two seconds, or four if n-grams are
            considered; longer if a network is set whose steps are slow.
        ancestor: Run that the weights come from: network and tokenizer are those of this run.

    Raises:
        CharlmError: An override is wrong, or the text cannot be read.
    """
    config = load_config(None, overrides)
    if ancestor is not None:
        config = inherit(config, ancestor)
    inspection = _inspect(config)
    text = inspection.text
    plan = _make_plan(config, text, speed or _device_speed(config, text))
    fields = {
        "corpus": inspection.corpus_fields,
        "task": config.task.model_dump(exclude_unset=True),
        "tokenizer": {"level": text.level} if ancestor is None else config.tokenizer.model_dump(),
        **_chosen_fields(config, text, plan, ancestor),
    }
    later = [_text_override(inspection)]
    if plan.stops_early:
        later.append(f"training.epochs={plan.passes}")
    chosen = check_config(override(fields, [*overrides, *later]), "chosen")
    origin = None if ancestor is None else ancestor.folder
    return ChosenConfig(config=chosen, reasons=_reasons(config, text, plan, chosen, origin))


def choose_reading_of_text(overrides: Sequence[str] = ()) -> ChosenConfig:
    """Choose only how a text is read and split, as `choose` does; other fields keep their defaults.

    Raises:
        CharlmError: An override is wrong, or the text cannot be read.
    """
    inspection = _inspect(load_config(None, overrides))
    fields = {"corpus": inspection.corpus_fields}
    chosen = check_config(override(fields, [*overrides, _text_override(inspection)]), "chosen")
    return ChosenConfig(config=chosen, reasons=(_text_line(inspection.text),))


@dataclass(frozen=True)
class _Inspection:
    """What was learned from reading the beginning of a text.

    Attributes:
        text: Facts about the text.
        text_names: Resolved names of the text.
        corpus_fields: Chosen fields of the section `corpus`.
    """

    text: TextFacts
    text_names: Sequence[str]
    corpus_fields: dict[str, Any]


def _inspect(config: Config) -> _Inspection:
    """Read the beginning of the text, and choose how it is read and split."""
    card = card_of(config.corpus)
    resolved = resolve(config)
    corpus = open_corpus(resolved)
    reading = _choose_mode(config, resolved, card, corpus)
    mode = reading.mode
    if mode != corpus.mode:
        corpus = open_corpus(_with_reading(config, resolved, reading))
    train = corpus.parts["train"]
    level = resolved.tokenizer.level
    per_byte, alphabet_size = _measure_characters(train, level)
    fields: dict[str, Any] = {"mode": mode}
    if mode == "records":
        fields["record"] = reading.record
    if resolved.task.has_pairs:
        pair = ("source", "target")
        fields |= {name: getattr(resolved.corpus, name) for name in pair}
    characters = round(train.size * per_byte)
    if _is_split_open(config, card, corpus):
        whole = (train.size + corpus.parts["valid"].size) * per_byte
        fraction = float(f"{min(0.1, _VALIDATION_CHARACTERS / max(whole, 1)):.2g}")
        fields["valid_share"] = fraction
        characters = round(whole * (1 - fraction))
    mean_characters = train.size * per_byte / len(train.spans)
    text = TextFacts(
        title=card.title if card else shown_names(config.corpus.text),
        characters=characters,
        mode=mode,
        reading=f"{_READING[reading.record if mode == 'records' else mode]}: {reading.reason}",
        level=level,
        alphabet_size=alphabet_size,
        record_tokens=1 + max(1, round(mean_characters / _CHARACTERS_PER_TOKEN[level])),
    )
    return _Inspection(text=text, text_names=resolved.corpus.text, corpus_fields=fields)


class _Characters(NamedTuple):
    """The characters in the first blocks of a text.

    Attributes:
        per_byte: Mean number of characters per byte.
        alphabet_size: Number of different characters; 256 for bytes.
    """

    per_byte: float
    alphabet_size: int


def _text_override(inspection: _Inspection) -> str:
    """Return the override with the resolved names: standard input can be read only once."""
    return f"corpus.text={json.dumps(inspection.text_names)}"


def _measure_characters(text: Text, level: Level) -> _Characters:
    """Measure the characters of a text; at level `byte` a byte is one."""
    if level == "byte":
        return _Characters(per_byte=1.0, alphabet_size=256)
    sample = b"".join(_beginning(text, _BYTES_READ))
    characters = sample.decode()
    return _Characters(len(characters) / len(sample), alphabet_size=len(set(characters)))


def _is_split_open(config: Config, card: Card | None, corpus: Corpus) -> bool:
    """Return whether the size of the validation part is still to be chosen."""
    is_set = config.corpus.valid_share is not None or config.corpus.valid_text is not None
    is_on_card = card is not None and card.valid_share is not None
    return not is_set and not is_on_card and "valid" in corpus.parts


def _beginning(text: Text, size: int) -> list[bytes]:
    """Return the first blocks of a text, of at least `size` bytes in all if it has as many."""
    blocks: list[bytes] = []
    num_bytes = 0
    for block, _ in text.blocks():
        blocks.append(block)
        num_bytes += len(block)
        if num_bytes >= size:
            break
    return blocks


class _Reading(NamedTuple):
    """How a text is best read, and why."""

    mode: Mode
    record: Record
    reason: str


def _with_reading(config: Config, resolved: ResolvedConfig, reading: _Reading) -> ResolvedConfig:
    """Return the resolved configuration with another reading of the text."""
    # The split follows the mode unless it is set.
    changes = {"mode": reading.mode, "record": reading.record, "split": config.corpus.split}
    corpus = resolved.corpus.model_copy(update=changes)
    return resolve(resolved.model_copy(update={"corpus": corpus}))


def _choose_mode(
    config: Config, resolved: ResolvedConfig, card: Card | None, corpus: Corpus
) -> _Reading:
    """Return how a text is best read."""
    record = resolved.corpus.record
    if config.task.has_pairs:
        return _Reading("records", record, "each has a source and a target")
    if config.corpus.mode:
        return _Reading(corpus.mode, record, "corpus.mode is set")
    if card:
        return _Reading(corpus.mode, record, "the corpus card says so")
    train = corpus.parts["train"]
    if config.corpus.record == "line":
        return _read_lines(train)
    if resolved.tokenizer.words != "whitespace" and _has_short_documents(train):
        return _Reading("records", "document", "the documents are short and independent")
    has_documents = config.corpus.record or resolved.corpus.separator
    if has_documents or are_tables(resolved.corpus.text, rules=resolved.corpus.rules):
        return _Reading("stream", "document", "the documents are few or long")
    return _read_lines(train)


def _has_short_documents(text: Text) -> bool:
    """Return whether a text has many documents, and 99 % of them are short."""
    lengths = np.sort(text.spans[:, 2] - text.spans[:, 1])
    longest = lengths[len(lengths) * 99 // 100]
    return len(lengths) >= _MIN_DOCUMENTS and bool(longest <= _MAX_DOCUMENT_BYTES)


def _read_lines(text: Text) -> _Reading:
    """Return how a text is best read by its lines, with the alternative if that is uncertain."""
    # Each block is divided by itself, because a document also ends its last line.
    lines = [
        strip_line_end(line, text.line_ends)
        for block in _beginning(text, BLOCK_BYTES)
        for line in split_lines(block.decode(errors="replace"), text.line_ends)
    ]
    mode, reason, is_certain = choose_reading(measure_lines(lines))
    return _Reading(mode, "line", reason if is_certain else f"{reason}; {_OTHER_MODE[mode]}")


def _make_plan(config: Config, text: TextFacts, speed: Speed) -> _Plan:
    """Return the size of the network and the length of the training."""
    training = config.training
    shape = _batch_shape(config, text)

    def trained_tokens(hidden_size: int) -> float:
        unit, amount = training.budget
        if unit == "minutes":
            return speed(hidden_size) * amount * 60
        if unit == "steps":
            return amount / shape.steps_per_pass(text) * text.tokens
        return amount * text.tokens

    if "hidden_size" in config.model.model_fields_set:
        hidden_size = config.model.hidden_sizes[0]
    else:
        hidden_size = text.recipe.hidden_size(text, trained_tokens)
    passes = trained_tokens(hidden_size) / text.tokens
    stops_early = training.minutes is not None and passes > _MAX_PASSES
    plan = _Plan(
        hidden_size=hidden_size,
        shape=shape,
        passes=_MAX_PASSES if stops_early else passes,
        stops_early=stops_early,
    )
    is_open = text.mode == "stream" and "batch_size" not in training.model_fields_set
    # In a budget of steps, twice the batch would take twice the time.
    if is_open and training.steps is None and plan.steps(text) > _MANY_STEPS:
        return replace(plan, shape=shape._replace(batch_size=2 * shape.batch_size))
    return plan


def _batch_shape(config: Config, text: TextFacts) -> _BatchShape:
    """Return the shape of a step, with fewer streams for a short text, or fewer long records."""
    training = config.training
    is_set = training.model_fields_set
    length = training.window if "window" in is_set else text.recipe.window
    if config.task.has_pairs:  # They are read whole.
        length = text.record_tokens
    elif text.mode == "records":
        length = min(length, text.record_tokens)
    if "batch_size" in is_set:
        return _BatchShape(training.batch_size, length)
    batch_size = text.recipe.batch_size
    most_tokens = math.inf
    if text.mode == "stream":
        most_tokens = text.tokens / _MIN_STEPS_PER_PASS
    elif config.task.has_pairs:
        most_tokens = batch_size * text.recipe.window
    while batch_size > 1 and batch_size * length > most_tokens:
        batch_size //= 2
    return _BatchShape(batch_size, length)


def _chosen_fields(
    config: Config, text: TextFacts, plan: _Plan, ancestor: Ancestor | None
) -> dict[str, dict[str, Any]]:
    """Return the fields that follow from a plan, by sections of the configuration.

    Args:
        config: Configuration, of which some fields are set.
        text: Facts about the text.
        plan: Size of the network and length of the training.
        ancestor: Run whose network and weights `config` has; None for a new network.
    """
    recipe = text.recipe
    model = _model_fields(config, recipe, plan)
    if ancestor is None:
        return {
            "model": model,
            "training": _training_fields(config, recipe, plan, text),
        }
    recipe = replace(
        recipe,
        learning_rate=_TRAINED_RATE * recipe.learning_rate,
        max_weight_decay=_MIN_WEIGHT_DECAY,
    )
    training = _training_fields(config, recipe, plan, text)
    can_replay = not config.task.has_pairs and ancestor.can_be_replayed()
    return {
        "model": config.model.model_dump() | {name: model[name] for name in _DROPOUT},
        "training": training | ({"replay": _REPLAY} if can_replay else {}),
    }


def _model_fields(config: Config, recipe: Recipe, plan: _Plan) -> dict[str, Any]:
    model = config.model
    has_labels = config.task.has_labels
    can_be_tied = model.embedding == "learned" and not (model.adaptive_cutoffs or has_labels)
    dropout = recipe.output_dropout(plan.passes)
    ngrams = _NGRAMS if plan.passes <= recipe.passes_with_ngrams else 0
    return {
        **_network_fields(model, recipe, plan.hidden_size, ngrams),
        "tied": recipe.tokens_are_words and can_be_tied,
        "output_dropout": dropout,
        "embedding_dropout": round(max(0.0, dropout - 0.25), 2),
        "direction": _direction(config),
    }


def _direction(config: Config) -> str:
    """Return the direction that is set; else `both` for a label per token."""
    is_open = "direction" not in config.model.model_fields_set
    return "both" if is_open and config.task.kind == "tag" else config.model.direction


def _network_fields(
    model: ModelSection, recipe: Recipe, hidden_size: int, ngrams: int
) -> dict[str, Any]:
    """Return the fields of a network that its speed depends on; those that are set stay.

    Args:
        model: Network, of which some fields are set.
        recipe: Recipe for the text.
        hidden_size: Number of units.
        ngrams: Length of the longest n-grams; 0 for none.
    """
    # The residual stream of blocks has the size of the embedding.
    is_wide = recipe.tokens_are_words or model.block != "none"
    return {
        "num_layers": model.num_layers,
        "hidden_size": hidden_size,
        "embedding_size": hidden_size if is_wide else max(16, hidden_size // 4),
        "ngrams": ngrams,
        **model.model_dump(include=_ARCHITECTURE, exclude_unset=True),
    }


def _training_fields(
    config: Config, recipe: Recipe, plan: _Plan, text: TextFacts
) -> dict[str, Any]:
    steps = plan.steps(text)
    fields: dict[str, Any] = {
        "batch_size": plan.shape.batch_size,
        "window": recipe.window,
        "optimizer": recipe.optimizer,
        "warmup_steps": round(min(100, steps / 10)),
        "clipnorm": 1.0 if config.task.kind == "classify" else float(plan.shape.length),
        "evaluations": 20 if steps > _MANY_STEPS else 10 if plan.stops_early else 5,
        "partial_shuffle": text.mode == "stream" and plan.passes >= _MIN_PASSES_SHUFFLED,
    }
    is_open = "optimizer" not in config.training.model_fields_set
    if is_open or config.training.optimizer == recipe.optimizer:
        # The recipe's rate and weight decay do not suit another optimizer.
        rate = recipe.peak_rate(plan.hidden_size, steps)
        fields["learning_rate"] = rate
        fields["weight_decay"] = recipe.weight_decay(plan.passes, steps, rate)
    return fields


def _text_line(text: TextFacts) -> str:
    return (
        f"text: {text.title}, {text.characters:,} characters for training, split into "
        f"{TOKEN_NAMES[text.level]}; {text.reading}"
    )


def _reasons(
    config: Config, text: TextFacts, plan: _Plan, chosen: Config, origin: Path | None
) -> tuple[str, ...]:
    """Return one line each about text, network, training and dropout.

    Args:
        config: Configuration before the choice.
        text: Facts about the text.
        plan: Size of the network and length of the training.
        chosen: Configuration after the choice.
        origin: Run folder that the weights come from; None for random weights.
    """
    return (
        _text_line(text),
        _network_line(config, text, chosen.model, origin),
        _training_line(config.training, text, plan, chosen.training),
        _dropout_line(config.model, text, plan, chosen.model, origin),
    )


def _network_line(config: Config, text: TextFacts, model: ModelSection, origin: Path | None) -> str:
    given = config.model.model_fields_set
    reason = f"the largest size that suits {_budget(config.training)} and this text"
    if "hidden_size" in given:
        reason = "as set" if origin is None else f"those of {origin}"
    line = f"network: {', '.join(map(str, model.hidden_size))} units, {reason}"
    if model.ngrams:
        line += f"; with embeddings of the last 2 to {model.ngrams} {TOKEN_NAMES[text.level]}"
        if "ngrams" not in given:
            line += ", because the text is read at most twice"
    return line


def _training_line(
    given: TrainingSection, text: TextFacts, plan: _Plan, training: TrainingSection
) -> str:
    line = (
        f"training: {plan.steps(text):,.0f} steps of {training.batch_size} x {plan.shape.length} "
        f"tokens, peak learning rate {training.learning_rate:.2g}, {_passes(plan)}"
    )
    if not plan.stops_early:
        return line
    return (
        f"{line}; on a small text, training stops early, before {_budget(given)}, so that the "
        "model does not memorize it"
    )


def _dropout_line(
    given: ModelSection, text: TextFacts, plan: _Plan, model: ModelSection, origin: Path | None
) -> str:
    # In the network of an ancestor every field has a value, but dropout is chosen anew.
    is_set = given.model_fields_set if origin is None else set()
    fractions = (
        f"{getattr(model, field):.2g} of the {field.removesuffix('_dropout')}"
        + (" (as set)" if field in is_set else "")
        for field in _DROPOUT
    )
    reason = "because little of the text is read more than once"
    if text.recipe.output_dropout(plan.passes):
        reason = f"for {_passes(plan)}"
    return f"dropout: {', '.join(fractions)}, {reason}"


def _passes(plan: _Plan) -> str:
    """Return the number of passes in words: a digit after the point, or two digits if below 1."""
    passes = f"{plan.passes:.1f}" if plan.passes >= 1 else f"{plan.passes:.2g}"
    return f"{passes} passes over the text"


def _budget(training: TrainingSection) -> str:
    """Return the budget in words, such as `5 minutes`."""
    unit, amount = training.budget
    return f"{amount:,g} {unit if amount != 1 else unit[:-1]}"


def _device_speed(config: Config, text: TextFacts) -> Speed:
    """Return the speed of the device, which is measured when it is first asked for.

    It is that of a network with n-grams for each size that would have them; see `_model_fields`.
    """
    model, limit = config.model, text.recipe.passes_with_ngrams
    if "ngrams" in model.model_fields_set:
        return _measured_speed(config, text, model.ngrams)
    plain = _measured_speed(config, text, ngrams=0)
    slower = _measured_speed(config, text, ngrams=_NGRAMS)

    def speed(hidden_size: int) -> float:
        tokens_per_second = plain(hidden_size)
        passes = tokens_per_second * 60 * (config.training.minutes or 0.0) / text.tokens
        return slower(hidden_size) if passes <= limit else tokens_per_second

    return speed


def _measured_speed(config: Config, text: TextFacts, ngrams: int) -> Speed:
    """Return the speed of networks with n-grams up to a length; 0 for none."""
    training = config.training
    device = choose_device(training.device)
    batch_size, length = _batch_shape(config, text)
    if config.task.has_pairs:  # A step of long records would take seconds.
        length = min(length, text.recipe.window)
    is_set = "optimizer" in training.model_fields_set
    fields = {
        "steps": 10**9,
        "optimizer": training.optimizer if is_set else text.recipe.optimizer,
        "batch_size": batch_size,
        "window": length,
    }
    one_network = measured_speed(
        fields,
        vocabulary_size=_vocabulary_size(config, text),
        hardware=Hardware(device, choose_precision(training.precision, device)),
        network=lambda size: _network_fields(config.model, text.recipe, size, ngrams),
    )
    num_networks = 2 if _direction(config) == "both" else 1
    return lambda size: one_network(size) / num_networks


def _vocabulary_size(config: Config, text: TextFacts) -> int:
    """Return the number of tokens in the vocabulary that is measured.

    A larger vocabulary of words or subwords than the default one is measured as the default one:
    its steps would take seconds, and few texts fill it.
    """
    size = VOCABULARY_SIZES[text.level] or text.alphabet_size + 2  # With <EOS> and <UNK>.
    return min(size, config.tokenizer.vocabulary_size or size)
