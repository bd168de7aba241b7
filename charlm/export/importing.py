"""Import a model that was trained elsewhere: a state dict of torch becomes a run folder."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from charlm.config.corpus import Mode
from charlm.config.load import load_config
from charlm.config.schema import ResolvedConfig
from charlm.config.values import check_names, checked
from charlm.data.resolve import resolve
from charlm.errors import CharlmError, OptionError
from charlm.evaluation.options import ScoringOptions
from charlm.evaluation.perplexity import Perplexity, measure_perplexity, score_text
from charlm.evaluation.static_model import StaticModel
from charlm.export.state_dict import GATES, Layer, Matched, MatchOptions, match
from charlm.export.vocabulary import Vocabulary, read_vocabulary
from charlm.model.language_model import LanguageModel
from charlm.model.uninitialized import uninitialized
from charlm.model_texts import encode_string
from charlm.runs.checkpoint import load_weights, save_checkpoint, weights_of
from charlm.runs.folder import check_new, write_run_files
from charlm.runs.verify import MAX_BYTES
from charlm.runs.verify_weights import check_weights
from charlm.storage.atomic import atomic_output
from charlm.storage.results import Result
from charlm.storage.tensors import read_tensors
from charlm.storage.untrusted import one_line, read_regular_file
from charlm.trained_model import Origin, TrainedModel
from charlm.version import VERSION

Activation = Literal["tanh", "relu"]
# The training text of an imported model is not known. Its name says so where charlm looks for it.
_UNKNOWN_TEXT = "unknown text of an imported model"
_PROBE_TOKENS = 500  # Tokens on which the orders of the gates are compared.
_MARGIN_NATS = 0.02  # Another order must be better by this.


@checked
@dataclass(frozen=True)
class ImportOptions:
    """What is imported, and what the user says about it.

    Attributes:
        weights: Safetensors file with a state dict.
        tokenizer: Tokenizer of charlm, or the characters in the order of their ids.
        out: Run folder to create.
        match: What the user says about the tensors.
        activation: elman: activation function, which no tensor shows.
        mode: Mode in which the model reads texts.
        eos: Token of a list that stands for <EOS>.
        unknown: Token of a list that stands for <UNK>.
        text: Text to score, or None.
    """

    weights: Path
    tokenizer: Path
    out: Path
    match: MatchOptions
    activation: Activation | None = None
    mode: Mode = "stream"
    eos: str | None = None
    unknown: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            OptionError: An option is missing, has no meaning, or a wrong value.
        """
        if self.match.cell == "elman" and self.activation not in ("tanh", "relu"):
            problem = "must be tanh or relu for an Elman network, whose tensors do not show it"
            raise OptionError("activation", problem, value=self.activation)
        if self.match.cell != "elman" and self.activation is not None:
            raise OptionError("activation", "has no meaning without an Elman network; remove it")
        if self.mode not in ("stream", "records"):
            raise OptionError("mode", "must be stream or records", value=self.mode)


@dataclass(frozen=True)
class Import(Result):
    """What was imported.

    Attributes:
        run: Run folder.
        roles: What each tensor of the file is, by its name.
        notes: What became of <EOS> and <UNK>.
        vocabulary_size: Number of tokens, <EOS> and <UNK> included.
        uniform_nats: Nats per token of a model that has learned nothing.
        loss_nats: Nats per token on the given text, or None.
        tokens: Number of tokens of that text, or None.
    """

    run: str
    roles: dict[str, str]
    notes: list[str]
    vocabulary_size: int
    uniform_nats: float
    loss_nats: float | None
    tokens: int | None

    @property
    def is_no_better_than_uniform(self) -> bool:
        """Whether the score is that of a model that has learned nothing, or worse."""
        return self.loss_nats is not None and self.loss_nats > self.uniform_nats - _MARGIN_NATS

    def lines(self) -> Iterator[str]:
        """Yield what each tensor is, the notes and the score."""
        width = max(map(len, self.roles.values()))
        for name, role in self.roles.items():
            yield f"{role:<{width}}  {name}"
        for note in self.notes:
            yield f"{note}."
        yield f"{self.run}: {self.vocabulary_size:,} tokens"
        if self.loss_nats is not None:
            yield (
                f"{self.loss_nats:.4f} nats per token on {self.tokens:,} tokens of the text "
                f"(a uniform distribution: {self.uniform_nats:.4f})"
            )


@checked
def import_run(
    weights: str | Path, *, cell: str, tokenizer: str | Path, out: str | Path, **options: Any
) -> Import:
    """Import a state dict of torch as a run; see `charlm import`.

    Args:
        weights: Safetensors file with the tensors of embedding, nn.RNN, nn.GRU or nn.LSTM, and
            projection.
        cell: `lstm`, `gru` or `elman`.
        tokenizer: Tokenizer of charlm, or the characters in the order of their ids.
        out: Run folder to create.
        options: Other fields of `ImportOptions` and `MatchOptions`.

    Raises:
        CharlmError: A file cannot be used, something is ambiguous, or the gates are in another
            order. Nothing is written.
    """
    names = [field.name for field in fields(MatchOptions)]
    check_names(options, [*names, *(field.name for field in fields(ImportOptions))])
    known = MatchOptions(cell, **{name: options.pop(name) for name in names if name in options})  # type: ignore[arg-type]
    return import_weights(
        ImportOptions(Path(weights), Path(tokenizer), Path(out), known, **options)
    )


def import_weights(options: ImportOptions) -> Import:
    """Import a state dict of torch as a run; see `import_run`."""
    check_new(options.out)
    vocabulary = read_vocabulary(
        options.tokenizer, options.mode, eos=options.eos, unknown=options.unknown
    )
    matched = _match(options, vocabulary)
    config = _config(options, matched, vocabulary)
    trained = _trained_model(options, matched, vocabulary, config)
    score = None
    if options.text is not None:
        _check_order(options, matched, vocabulary, trained)
        score = measure_perplexity(trained, ScoringOptions(options.text))
    _write(options.out, trained)
    return _result(options, matched, vocabulary, score)


def _result(
    options: ImportOptions, matched: Matched, vocabulary: Vocabulary, score: Perplexity | None
) -> Import:
    return Import(
        run=str(options.out),
        roles=matched.roles,
        notes=vocabulary.notes,
        vocabulary_size=vocabulary.tokenizer.vocabulary_size,
        uniform_nats=math.log(vocabulary.size),
        loss_nats=None if score is None else score.loss_nats,
        tokens=None if score is None else score.tokens,
    )


def _match(options: ImportOptions, vocabulary: Vocabulary) -> Matched:
    """Return the parts of the model in the file."""
    path = options.weights
    try:
        tensors = read_tensors(read_regular_file(path, max_bytes=MAX_BYTES["safetensors"]))
        return match(tensors, vocabulary.size, options.match)
    except OSError as error:
        raise CharlmError(f"{path}: cannot be read: {error.strerror}; correct the path") from None
    except MemoryError:
        raise CharlmError(f"{path}: is larger than the free memory") from None
    except OptionError:
        raise
    except (CharlmError, ValueError) as error:
        remedy = "" if isinstance(error, CharlmError) else "; save the state dict with safetensors"
        raise CharlmError(one_line(f"{path}: {error}{remedy}")) from None


def _config(options: ImportOptions, matched: Matched, vocabulary: Vocabulary) -> ResolvedConfig:
    """Return the configuration of a run with the network of the file."""
    sizes = [layer.recurrent.shape[1] for layer in matched.layers]
    embedding = matched.embedding
    cell: dict[str, str] = {"kind": options.match.cell}
    if options.activation is not None:
        cell["activation"] = options.activation
    model = {
        "cell": cell,
        "hidden_size": sizes,
        "embedding": "one_hot" if embedding is None else "learned",
        "embedding_size": 1 if embedding is None else embedding.shape[1],
        "tied": matched.projection is None,
    }
    section = vocabulary.tokenizer.section
    overrides = [
        f"corpus.text={json.dumps([_UNKNOWN_TEXT])}",
        f"corpus.mode={options.mode}",
        *(f"tokenizer.{name}={json.dumps(value)}" for name, value in _changed(section).items()),
        *(f"model.{name}={json.dumps(value)}" for name, value in model.items()),
    ]
    return resolve(load_config(None, overrides))


def _changed(section: Any) -> dict[str, Any]:
    """Return the level and the fields that differ from their defaults."""
    values = section.model_dump(exclude_defaults=True)
    return {"level": section.level, **values}


def _trained_model(
    options: ImportOptions, matched: Matched, vocabulary: Vocabulary, config: ResolvedConfig
) -> TrainedModel:
    """Return the model, in memory only."""
    size = vocabulary.tokenizer.vocabulary_size
    weights = dict(_weights(matched, vocabulary))
    check_weights(weights, config.model, size, place=options.weights)
    model = uninitialized(LanguageModel, config.model, size)
    load_weights(model, weights, options.weights)
    corpus = {
        "title": f"imported from {options.weights.name}",
        "fingerprints": {},
        "train_token_counts": [0] * size,
    }
    return TrainedModel(
        model=model.eval(),
        tokenizer=vocabulary.tokenizer,
        config=config,
        device=torch.device("cpu"),
        origin=Origin(options.out, "best", corpus, {"step": 0}),
    )


def _weights(matched: Matched, vocabulary: Vocabulary) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by their names in files of charlm, in the order of its tokens."""
    if matched.embedding is not None:
        yield "embedding.weight", vocabulary.read_rows(matched.embedding)
    for number, layer in enumerate(matched.layers):
        if number == 0 and matched.embedding is None:  # A column is the embedding of a token.
            layer = layer._replace(input=vocabulary.read_rows(layer.input.t()).t().contiguous())
        yield from _layer_weights(number, layer)
    is_tied = matched.projection is None
    if matched.projection is not None:
        yield "projection.weight", vocabulary.predicted_rows(matched.projection)
    yield "projection.bias", vocabulary.biases(matched.bias, tied=is_tied)


def _layer_weights(number: int, layer: Layer) -> Iterator[tuple[str, Tensor]]:
    prefix = f"recurrence.cells.{number}.kernel."
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return ((prefix + name, tensor) for name, tensor in zip(names, layer, strict=True))


def _check_order(
    options: ImportOptions, matched: Matched, vocabulary: Vocabulary, trained: TrainedModel
) -> None:
    """Score the beginning of the text with every order of the gates.

    Raises:
        CharlmError: Another order than that of the options is better.
    """
    ids = encode_string(trained, options.text or "").ids[:_PROBE_TOKENS]
    letters = GATES[options.match.cell]
    if len(letters) == 1 or len(ids) == 0:
        return
    given = options.match.gates or letters
    losses: dict[str, float] = {}
    # The layers have the order of torch. A gate that is `given[j]` in it is to be `gates[j]`.
    for gates in map("".join, permutations(letters)):
        order = [letters.index(given[gates.index(letter)]) for letter in letters]
        layers = [layer.reordered(order) for layer in matched.layers]
        weights = dict(_weights(replace(matched, layers=layers), vocabulary))
        load_weights(trained.model, weights, options.weights)
        losses[gates] = _loss(trained, ids)
    load_weights(trained.model, dict(_weights(matched, vocabulary)), options.weights)
    best = min(losses, key=losses.__getitem__)
    uniform = math.log(vocabulary.size)
    # A model that has learned nothing of the text, with any order, says nothing about the orders.
    has_learned = losses[best] < uniform - _MARGIN_NATS
    if has_learned and losses[given] - losses[best] > _MARGIN_NATS:
        raise CharlmError(
            f"{options.weights}: with the gates in the order {given} the text costs "
            f"{losses[given]:.3f} nats per token (a uniform distribution: {uniform:.3f}), with "
            f"{best} {losses[best]:.3f}; the file has that order: import it with --gates {best}"
        )


def _loss(trained: TrainedModel, ids: Any) -> float:
    static = StaticModel(trained.model, trained.mode, trained.device)
    with torch.inference_mode():
        return score_text(static, ids).loss_nats


def _write(out: Path, trained: TrainedModel) -> None:
    """Write the run folder: complete, or not at all."""
    remedy = "name another folder with --out"
    state = {
        "charlm": VERSION,
        "step": 0,
        "seconds": 0.0,
        "tokens": 0,
        "epochs": 0.0,
        "best_loss_nats": None,
    }
    tensors: Mapping[str, Mapping[str, Tensor]] = {"weights": weights_of(trained.model)}
    with atomic_output(out, error_type=CharlmError, remedy=remedy) as folder:
        folder.mkdir()
        write_run_files(folder, trained.config, trained.tokenizer, trained.origin.corpus)
        for name in ("last", "best"):
            save_checkpoint(folder / name, state, tensors, remedy=remedy)
