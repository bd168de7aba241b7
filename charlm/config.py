"""The configuration: YAML and overrides in, one frozen and checked `Config` out. Every default lives here."""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from charlm.errors import ConfigError

BUDGETS = ("minutes", "steps", "epochs")
# What a field that is left empty becomes where neither the level nor a corpus card says otherwise.
VOCABULARY_SIZES = {"char": None, "byte": None, "word": 10_000, "bpe": 2_048}
VALID_SHARE, TEST_SHARE = 0.1, 0.0


def _as_list(value: object) -> object:
    """Accept one name where a list of names is meant."""
    return (value,) if isinstance(value, str) else value


def _as_cell(value: object) -> object:
    """Accept `cell: lstm` for `cell: {kind: lstm}`."""
    return {"kind": value} if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Level = Literal["char", "byte", "word", "bpe"]
Mode = Literal["stream", "records"]


class Section(BaseModel):
    """A frozen part of the configuration that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Corpus(Section):
    """What is read. A field left empty is what the corpus card says, or else the default in brackets."""

    text: Texts = Field(
        ("python-docs",), description="Name of a corpus (charlm corpus list), or files, folders, globs, .gz."
    )
    valid_text: Texts | None = Field(None, description="A separate text for validation, instead of a share.")
    test_text: Texts | None = Field(None, description="A separate text for testing, instead of a share.")
    mode: Mode | None = Field(None, description="stream: one long text; records: a line is one sequence. [stream]")
    valid_share: Share | None = Field(None, description="Share of the text held out for validation. [0.1]")
    test_share: Share | None = Field(None, description="Share of the text held out for testing. [0]")
    split: Literal["contiguous", "shuffled"] | None = Field(
        None, description="contiguous: the end of the text is held out; shuffled: records drawn by seed. "
        "[contiguous in stream mode, shuffled in records mode]",
    )  # fmt: skip
    split_seed: int = Field(1, ge=0, description="Seed of the shuffled split; apart from training.seed, so "
                            "that runs of several seeds share one held-out text.")  # fmt: skip
    separator: str | None = Field(
        None, min_length=1, description="Text that stands between the documents of a file. [none: a file is "
        "one document]",
    )  # fmt: skip
    encoding: str = Field("utf-8", description="Encoding of the files.")


class Tokenizer(Section):
    """How text becomes token ids. <EOS> is 0 and <UNK> is 1 at every level."""

    level: Level = Field("char", description="char, byte, word, or bpe (subwords).")
    vocabulary_size: int | None = Field(
        None, ge=3, description="Most tokens kept, <EOS> and <UNK> among them. [char: all; word: 10000; "
        "bpe: 2048; byte: always 258]",
    )  # fmt: skip
    min_count: int = Field(1, ge=1, description="Times a character or word must occur to be known.")
    lowercase: bool = Field(False, description="Read capital letters as small ones.")
    normalization: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] = Field(
        "none", description="Unicode normalization; none gives back every text as it was."
    )
    eos: Literal["document", "line", "sentence", "none"] = Field(
        "document", description="In stream mode, where <EOS> goes: after each of these."
    )
    words: Literal["words", "whitespace"] = Field(
        "words", description="level word: words (any text, spacing kept) or whitespace (what stands between "
        "spaces; the end of a line is <EOS>: the convention of published word-level tasks).",
    )  # fmt: skip

    @model_validator(mode="after")
    def _has_an_effect(self) -> "Tokenizer":
        if self.words == "whitespace" and self.level != "word":
            raise ValueError(f"words: whitespace needs level: word, got {self.level}")
        if self.words == "whitespace" and self.eos == "sentence":
            raise ValueError("eos: with words: whitespace the end of a line is <EOS>; remove eos")
        changed = [name for name in ("vocabulary_size", "min_count", "lowercase", "normalization")
                   if getattr(self, name) != type(self).model_fields[name].default]  # fmt: skip
        if self.level == "byte" and changed:
            raise ValueError(f"{changed[0]}: has no effect at level byte, which takes every byte as it is; remove it")
        return self


class Cell(Section):
    """The recurrence. `cell: gru` is short for `cell: {kind: gru}`."""

    kind: Literal["elman", "gru", "lstm"] = Field("lstm", description="elman, gru, or lstm.")
    activation: Literal["tanh", "relu", "sigmoid"] = Field("tanh", description="elman: tanh, relu, sigmoid.")


class Model(Section):
    """The network: embedding, recurrence, projection."""

    cell: Annotated[Cell, BeforeValidator(_as_cell)] = Field(Cell(), description="The recurrence.")  # type: ignore[call-arg]
    hidden_size: int = Field(512, ge=1, description="Units of each layer: 512 is what a minute of two cores "
                             "can train.")  # fmt: skip
    num_layers: int = Field(1, ge=1, description="Layers: one wide layer beats two narrow ones in a minute.")
    embedding_size: int = Field(64, ge=1, description="Units of a token's embedding.")
    skip: Literal["none", "residual", "sum"] = Field(
        "none", description="residual: a layer's input is added to its output, from the second layer on; "
        "sum: the projection sees the sum of all layers' outputs.",
    )  # fmt: skip
    tied: bool = Field(False, description="Embedding and projection share one matrix (Press and Wolf 2017).")
    embedding_dropout: Share = Field(0.0, description="Share of the embedding's units dropped.")
    dropout: Share = Field(0.0, description="Share of units dropped between layers.")
    output_dropout: Share = Field(0.0, description="Share of units dropped before the projection.")


class Training(Section):
    """How the network is trained. The objective is cross-entropy summed over time, averaged over the batch."""

    minutes: float | None = Field(None, gt=0, description="Budget: minutes of training steps.")
    steps: int | None = Field(None, ge=1, description="Budget: training steps.")
    epochs: float | None = Field(None, gt=0, description="Budget: passes over the training text.")
    batch_size: int = Field(16, ge=1, description="Streams or records side by side in a step: small batches "
                            "take more steps, and steps are what a minute is short of.")  # fmt: skip
    window: int = Field(64, ge=1, description="Tokens in a step of truncated backpropagation through time.")
    optimizer: Literal["adamw", "adam", "rmsprop", "sgd"] = Field("adamw", description="The optimizer.")
    learning_rate: float = Field(8.0e-3, gt=0, description="Peak rate of the schedule: high, for a run of minutes with "
                                 "a small batch; for hours or several layers, a quarter of it.")  # fmt: skip
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the mean of gradients; momentum for sgd.")
    beta2: float = Field(0.99, ge=0, lt=1, description="Decay of the mean of squared gradients: 0.99 adapts "
                         "within the few thousand steps of a short run.")  # fmt: skip
    weight_decay: float = Field(0.1, ge=0, description="Weight decay on the matrices: at high rates 0.1 to 0.2 beats "
                                "0.01.")  # fmt: skip
    decay_embeddings: bool = Field(False, description="Weight decay on embeddings too.")
    decay_biases: bool = Field(False, description="Weight decay on biases too.")
    schedule: Literal["linear", "cosine", "constant", "trapezoid"] = Field(
        "linear", description="After the warm-up: fall to zero by a line or a cosine, stay constant, or stay "
        "and fall over the last fifth (trapezoid).",
    )  # fmt: skip
    warmup_steps: int = Field(100, ge=0, description="Steps in which the rate rises from zero.")
    clipnorm: float | None = Field(64.0, gt=0, description="Largest norm of the gradient of the sum over "
                                   "time; about the window times what one would give for a mean.")  # fmt: skip
    clipvalue: float | None = Field(None, gt=0, description="Largest size of a component of that gradient.")
    seed: int = Field(1, ge=0, description="Seed of weights, dropout and order.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device is faster in it, fp32 elsewhere."
    )
    evaluations: int = Field(5, ge=1, description="Evaluations on the validation split, evenly over the "
                             "budget, the last at its end.")  # fmt: skip
    patience: int | None = Field(None, ge=1, description="Stop after so many evaluations with no new best.")

    @model_validator(mode="after")
    def _one_budget(self) -> "Training":
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}: give one of minutes, steps, epochs")
        if not given:  # A minute shows any text's first results.
            object.__setattr__(self, "minutes", 1.0)
        return self


class Checkpoint(Section):
    """What is kept on disk."""

    save_seconds: float = Field(30.0, gt=0, description="Seconds between saves of last/, beside those at each "
                                "evaluation: the most that a crash can cost.")  # fmt: skip


class Config(Section):
    """A whole experiment. Frozen; `load_config` makes one from a file and overrides."""

    corpus: Corpus = Field(Corpus(), description="What is read.")  # type: ignore[call-arg]
    tokenizer: Tokenizer = Field(Tokenizer(), description="How text becomes token ids.")  # type: ignore[call-arg]
    model: Model = Field(Model(), description="The network.")  # type: ignore[call-arg]
    training: Training = Field(Training(), description="How it is trained.")  # type: ignore[call-arg]
    checkpoint: Checkpoint = Field(Checkpoint(), description="What is kept.")  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "Config":
        held_out = (self.corpus.valid_share or 0) + (self.corpus.test_share or 0)
        if held_out >= 1:
            raise ValueError(f"corpus.valid_share and corpus.test_share leave nothing to train on: {held_out}")
        return self


def shipped(folder: str) -> Path:
    """Return the folder of shipped `configs` or `corpora`: inside an installed package, or of the checkout."""
    package = Path(__file__).parent
    inside = package / "shipped" / folder
    return inside if inside.is_dir() else package.parent / folder


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, apply `section.key=value` overrides, and check the whole.

    Args:
        path: A YAML file; the name of a shipped config, such as `quickstart`; None for the defaults alone.
        overrides: Such as `model.hidden_size=256`; the value is read as YAML; a later one wins.

    Raises:
        ConfigError: The file is missing or no YAML, or some keys or values are wrong: all of them are told.
    """
    place, data = ("defaults", {}) if path is None else _read(_find(Path(path)))
    return check_config(_override(data, overrides), place)


def check_config(data: Mapping[str, Any], place: str) -> Config:
    """Check `data` against `Config`.

    Raises:
        ConfigError: In one line, every mistake with its place in the file and, for an unknown key, the nearest.
    """
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{place}: {'; '.join(_mistakes(error))}") from None


def dump(config: Config) -> str:
    """Return `config` as YAML with a comment a field, ready to be saved and used."""
    return "\n".join(_lines(config, depth=0)) + "\n"


def describe_mistakes(error: ValidationError, model: type[BaseModel]) -> str:
    """Return every mistake that pydantic found in data for `model`, in one line."""
    return "; ".join(_mistakes(error, model))


def _find(path: Path) -> Path:
    """Return the file that `path` names: itself, or the shipped config of that name."""
    if path.is_file():
        return path
    named = shipped("configs") / f"{path.stem}.yaml"
    if path.parent in (Path(), Path("configs")) and named.is_file():
        return named
    names = sorted(known.stem for known in shipped("configs").glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"charlm ships {', '.join(names)}"
    raise ConfigError(f"{path}: no such configuration file; {hint}")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold sections such as model: and training:, got {str(data)[:40]!r}")
    return str(path), data or {}


def _override(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with each `section.key=value` put in its place."""
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        section, dot, key = dotted.strip().partition(".")
        if not (equals and dot and key):
            raise ConfigError(f"--set {override}: must be section.key=value, as in model.hidden_size=256")
        values = data.get(section) or {}
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override}: {section} is no section here, but {values!r}")
        if section == "training" and key in BUDGETS:  # One budget takes another's place.
            values = {name: value for name, value in values.items() if name not in BUDGETS}
        data[section] = values | _nested(key.split("."), _parse(text, override), values)
    return data


def _parse(text: str, override: str) -> object:
    try:
        value: object = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not YAML: {text!r}") from None
    return value


def _nested(keys: Sequence[str], value: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return {key: value} for `model.cell.kind=gru` too, keeping the other keys of an inner mapping."""
    key, *rest = keys
    if not rest:
        return {key: value}
    inner = _as_cell(values.get(key))
    return {key: (inner if isinstance(inner, dict) else {}) | _nested(rest, value, {})}


def _mistakes(error: ValidationError, model: type[BaseModel] = Config) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        location = tuple(part for part in detail["loc"] if isinstance(part, str))
        if detail["type"] == "extra_forbidden":
            yield f"unknown key {'.'.join(location)}{_nearest(model, location)}"
        else:
            problem = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
            got = "" if detail["type"] == "value_error" else f", got {detail['input']!r:.60}"
            yield f"{'.'.join(location)} {problem}{got}".strip()


def _nearest(model: type[BaseModel], location: Sequence[str]) -> str:
    """Return the hint for an unknown key: the nearest key of its section, or the same key of another."""
    here = _section(model, location[:-1])
    near = difflib.get_close_matches(location[-1], here.model_fields, n=1)
    if near:
        return f" (nearest: {'.'.join((*location[:-1], near[0]))})"
    everywhere = {f"{name}.{key}": key for name in model.model_fields for key in _fields(model, name)}
    homes = [dotted for dotted, key in everywhere.items() if key == location[-1]]
    if not homes:
        homes = [d for d, key in everywhere.items() if difflib.get_close_matches(location[-1], [key], cutoff=0.7)]
    return f" (nearest: {homes[0]})" if homes else f" (known: {', '.join(here.model_fields)})"


def _fields(model: type[BaseModel], name: str) -> Iterator[str]:
    section = _inner(model.model_fields[name].annotation)
    return iter(section.model_fields) if section else iter(())


def _section(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    for name in location:
        inner = _inner(model.model_fields[name].annotation) if name in model.model_fields else None
        model = inner or model
    return model


def _inner(annotation: object) -> type[BaseModel] | None:
    """Return the section that a field holds, if it holds one."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return next((inner for inner in map(_inner, get_args(annotation)) if inner), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _lines(section: Section, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield f"{indent}{name}:  # {field.description}"
            yield from _lines(value, depth + 1)
        else:
            yield f"{indent}{name}: {_scalar(value)}  # {field.description}"


def _scalar(value: object) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=False)
    return text.removesuffix("\n").removesuffix("\n...")
