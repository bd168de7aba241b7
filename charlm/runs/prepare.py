"""Begin a new run, or resume an existing one."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.corpus import Mode
from charlm.config.load import check_resolved
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.task import Task as TaskSection
from charlm.config.training import BUDGETS
from charlm.data.cards import Part, cache_folder
from charlm.data.corpus import Corpus, Text, open_corpus
from charlm.data.labels import (
    LabelledTexts,
    label_targets,
    labels_of,
    learn_labels,
    split_labels,
)
from charlm.data.listing import shown_names
from charlm.data.pairs import add_targets
from charlm.data.resolve import resolve
from charlm.data.tokenizer import Tokenizer
from charlm.data.tokens import Report, Tokens, count_ids, encode_text, learn_or_load_tokenizer
from charlm.data.vectors import Vectors, read_vectors
from charlm.errors import CheckpointError, ConfigError, UnsupportedOptionError
from charlm.model.any_model import head_of, make_model
from charlm.model.embedding import put_vectors
from charlm.model.language_model import LanguageModel
from charlm.model.translation_model import TranslationModel
from charlm.runs.checkpoint import load_checkpoint, load_weights, weights_of
from charlm.runs.experiment import EncodedCorpus, Experiment, training_windows
from charlm.runs.files import BEGIN_AGAIN, Tensors
from charlm.runs.folder import (
    RunFiles,
    acquired,
    check_new,
    load_run,
    open_run_corpus,
    removed_on_failure,
    run_lock,
    write_run_files,
)
from charlm.runs.old_text import old_text_or_notice
from charlm.runs.snapshot import rewind, save_snapshot
from charlm.runs.verify import check_weights
from charlm.runs.warm_start import Ancestor, growth_line
from charlm.storage.atomic import remove_temporary_files
from charlm.storage.locks import ProcessLock
from charlm.training.averaging import Average
from charlm.training.devices import (
    Hardware,
    can_compute_in,
    check_size,
    choose_device,
    choose_precision,
    precision_name,
)
from charlm.training.loop import TrainingState
from charlm.training.optimizer import make_optimizer
from charlm.training.process_group import SINGLE_PROCESS, Group


def begin(
    config: Config,
    folder: Path,
    *,
    ancestor: Ancestor | None = None,
    group: Group = SINGLE_PROCESS,
    workers: int = 1,
) -> Experiment:
    """Encode the corpus, make the model, and create the run folder with a first checkpoint.

    In a group, the first process calls this and the other processes call `resume`.

    Args:
        config: Configuration, not resolved yet.
        folder: Run folder to create.
        ancestor: Run to start from, whose network and tokenizer `config` has (`inherit`); None for
            random weights.
        group: Processes that train together.
        workers: Number of processes that encode a large text.

    Raises:
        CharlmError: The corpus, the device or the folder cannot be used.
    """
    check_new(folder)
    config = resolve(config)
    device = choose_device(config.training.device, local_rank=group.local_rank)
    encoded = encode(config, ancestor=ancestor, workers=workers)
    vectors = None if ancestor else _read_vectors(config, encoded.tokenizer)
    torch.manual_seed(config.training.seed)
    hardware = Hardware(device, choose_precision(config.training.precision, device))
    experiment = _assemble(folder, config, encoded, hardware, run_lock(folder), group)
    if vectors is not None:
        experiment = _with_vectors(experiment, vectors)
    experiment = _with_ancestor(experiment, ancestor)
    next(training_windows(experiment))  # A text that is too small fails before a folder is made.
    with acquired(experiment.lock):
        check_new(folder)  # Another process may have begun there in the meantime.
        with removed_on_failure(folder):
            save_snapshot(experiment, "last", remedy=BEGIN_AGAIN)
            write_run_files(folder, experiment.config, encoded.tokenizer, _corpus_facts(experiment))
    group.publish("folder", str(folder))
    return experiment


def resume(
    folder: Path,
    *,
    budget: dict[str, float] | None = None,
    device: str | None = None,
    on_divergence: str | None = None,
    group: Group = SINGLE_PROCESS,
    workers: int = 1,
) -> Experiment:
    """Continue a run from its last checkpoint.

    Every process of a group calls this. Their number may differ from that of the saved training.

    Args:
        folder: Run folder.
        budget: Total budget instead of the run's own, such as {"minutes": 10}.
        device: Device instead of the run's own.
        on_divergence: Value of `training.on_divergence` instead of the run's own.
        group: Processes that train together.
        workers: Number of processes that encode a large text, if it is not in the cache any more.

    Raises:
        CheckpointError: The folder is not a run folder, is damaged, or is in use, or the text has
            changed.
    """
    run = load_run(folder)
    lock = run_lock(folder)
    with acquired(lock) if group.is_first else nullcontext():
        config = _override(run.config, budget, device=device, on_divergence=on_divergence)
        experiment = _load(folder, run._replace(config=config), lock, group, workers)
    if group.is_first:
        group.publish("folder", str(folder))
    return experiment


def encode(
    config: ResolvedConfig,
    *,
    ancestor: Ancestor | None = None,
    workers: int = 1,
    report: Report | None = None,
) -> EncodedCorpus:
    """Read and encode a corpus, and keep the result in the cache for later runs.

    Args:
        config: Configuration, of which the corpus and the tokenizer are used.
        ancestor: Run whose tokenizer is extended; None to learn one.
        workers: Number of processes that encode a large text.
        report: Function that receives the number of bytes encoded since its last call.

    Raises:
        CharlmError: The corpus cannot be used, or the cache cannot be written.
    """
    corpus = open_corpus(config)
    split = split_labels(corpus) if config.task.has_labels else None
    texts = corpus.parts if split is None else split.texts
    train = texts["train"]
    if ancestor is not None:
        tokenizer = ancestor.tokenizer_for(train)
    else:
        cache = cache_folder() / "tokens"
        tokenizer = learn_or_load_tokenizer(train, config.tokenizer, cache=cache)
    tokens = _encode_parts(texts, tokenizer, corpus.mode, workers, report)
    encoded = EncodedCorpus(corpus=corpus, tokenizer=tokenizer, tokens=tokens)
    return _with_targets(encoded, config.task, split)


def _encode_parts(
    texts: Mapping[Part, Text],
    tokenizer: Tokenizer,
    mode: Mode,
    workers: int,
    report: Report | None = None,
) -> dict[Part, Tokens]:
    cache = cache_folder() / "tokens"
    return {
        part: encode_text(text, tokenizer, mode=mode, cache=cache, workers=workers, report=report)
        for part, text in texts.items()
    }


def _with_targets(
    encoded: EncodedCorpus, task: TaskSection, split: LabelledTexts | None
) -> EncodedCorpus:
    """Return an encoded corpus with the targets of a task; its labels are learned if it has none.

    Args:
        encoded: Ids of the pairs, or of their sources if the targets are labels.
        task: The task.
        split: Sources and targets, if these are labels.
    """
    if split is None:
        with_targets = partial(add_targets, tokenizer=encoded.tokenizer, task=task)
        return replace(encoded, tokens={p: with_targets(t) for p, t in encoded.tokens.items()})
    tokens, title = encoded.tokens, encoded.corpus.title
    found = {
        part: labels_of(tokens[part].ids, targets, task, place=title)
        for part, targets in split.targets.items()
    }
    labels = encoded.labels or learn_labels(found, task)
    labelled = {
        part: replace(tokens[part], targets=label_targets(tokens[part].ids, rows, labels, task))
        for part, rows in found.items()
    }
    return replace(encoded, tokens=labelled, labels=labels)


def _load(folder: Path, run: RunFiles, lock: ProcessLock, group: Group, workers: int) -> Experiment:
    """Return the experiment of an existing run, as it was at its last checkpoint."""
    config = run.config
    tokenizer = run.tokenizer
    saved = load_checkpoint(folder / "last")
    check_weights(
        saved.weights, config.model, tokenizer.vocabulary_size, place=saved.folder, head=run.head
    )
    corpus = open_run_corpus(folder, config)
    if _fingerprints(corpus) != run.corpus["fingerprints"]:
        raise CheckpointError(
            f"{folder}: its text has changed since it was trained: "
            f"{shown_names(config.corpus.text)}; restore the text, or begin a new run"
        )
    device = choose_device(config.training.device, local_rank=group.local_rank)
    split = split_labels(corpus) if config.task.has_labels else None
    texts = corpus.parts if split is None else split.texts
    encoded = EncodedCorpus(
        corpus=corpus,
        tokenizer=tokenizer,
        tokens=_encode_parts(texts, tokenizer, corpus.mode, workers),
        labels=run.labels,
    )
    encoded = _with_targets(encoded, config.task, split)
    hardware = _resumed_hardware(config.training.precision, saved.state["precision"], device)
    experiment = _assemble(folder, config, encoded, hardware, lock, group)
    experiment = _with_old_text(experiment, run.corpus.get("ancestor"))
    rewind(experiment, saved)
    if group.is_first:
        remove_temporary_files(folder)
    notices = (
        *experiment.notices,
        *_used_budget(experiment),
        *_change_of_precision(experiment, saved.state["precision"]),
    )
    return replace(experiment, notices=notices)


def check_budget(experiment: Experiment) -> None:
    """Raise UnsupportedOptionError if nothing is left to train or to evaluate in a resumed run."""
    state = experiment.state
    if state.fraction_done(experiment.config.training) < 1 or state.due_metrics is not None:
        return
    unit, total = experiment.config.training.budget
    used = state.used(unit)
    experiment.lock.release()
    enough = math.ceil(used + total) if unit == "steps" else math.ceil(10 * (used + total)) / 10
    raise UnsupportedOptionError(
        unit,
        f"nothing is left to train in {experiment.folder}: its budget is a total, {total:,g} "
        f"{unit}, and {used:,.4g} {unit} are used; give a larger total, such as {{}} {enough:g}",
        others=[unit],
    )


def _used_budget(experiment: Experiment) -> tuple[str, ...]:
    """Return a line about the budget of a resumed run."""
    unit, total = experiment.config.training.budget
    used = experiment.state.used(unit)
    step = experiment.state.step
    if step == 0:  # Several processes begin with a run that was prepared for them.
        return ()
    return (f"continuing after step {step:,}: {used:,.4g} of {total:,g} {unit} in total are used",)


def _resumed_hardware(setting: str, saved: str | None, device: torch.device) -> Hardware:
    """Return device and precision of a run that continues: with `auto`, the precision it had.

    Args:
        setting: Value of `training.precision`.
        saved: Precision of the saved training; None for a run of an earlier version.
        device: Device of the training from now on.
    """
    if setting == "auto" and saved is not None and can_compute_in(saved, device):
        setting = saved
    return Hardware(device, choose_precision(setting, device))


def _change_of_precision(experiment: Experiment, saved: str | None) -> tuple[str, ...]:
    """Return a line if a run does not continue in the precision that it was trained in."""
    now = precision_name(experiment.hardware.precision)
    if saved in (None, now):
        return ()
    return (
        f"the run was trained in {saved} and continues in {now}, because "
        f"{experiment.hardware.device} has no fast {saved} here; its weights will differ from "
        "those of a training that never moved",
    )


def _assemble(
    folder: Path,
    config: ResolvedConfig,
    encoded: EncodedCorpus,
    hardware: Hardware,
    lock: ProcessLock,
    group: Group,
) -> Experiment:
    """Make a new model and optimizer; the weights come from torch's global random generator."""
    if config.training.batch_size < group.size:
        raise ConfigError(
            f"training.batch_size: must be at least {group.size}, one stream or record for each "
            f"process, got {config.training.batch_size}; raise it, or start fewer processes"
        )
    vocabulary_size = encoded.tokenizer.vocabulary_size
    head = head_of(config.task, encoded.labels)
    check_size(config.model, vocabulary_size, head)
    model = make_model(config.model, vocabulary_size, head).to(hardware.device)
    return Experiment(
        folder=folder,
        config=config,
        corpus=encoded.corpus,
        tokenizer=encoded.tokenizer,
        tokens=encoded.tokens,
        model=model,
        optimizer=make_optimizer(model, config.training, precision=hardware.precision),
        average=Average(model, config.training),
        state=TrainingState(),
        hardware=hardware,
        lock=lock,
        group=group,
        labels=encoded.labels,
    )


def _read_vectors(config: ResolvedConfig, tokenizer: Tokenizer) -> Vectors | None:
    if config.model.vectors is None:
        return None
    return read_vectors(Path(config.model.vectors), tokenizer, size=config.model.embedding_size)


def _with_vectors(experiment: Experiment, vectors: Vectors) -> Experiment:
    """Put pretrained vectors into the embedding, and make their path in the config absolute."""
    model, config = experiment.model, experiment.config
    sides = [model, *([model.decoder] if isinstance(model, TranslationModel) else [])]
    for side in sides:
        embedding = side.encoder.embedding
        if not isinstance(embedding, nn.Embedding):
            return experiment
        put_vectors(embedding, torch.from_numpy(vectors.rows), torch.from_numpy(vectors.found))
    path = str(Path(config.model.vectors or "").absolute())
    section = config.model.model_copy(update={"vectors": path})
    return replace(
        experiment,
        config=config.model_copy(update={"model": section}),
        vectors_fraction=vectors.fraction_found,
    )


def _with_ancestor(experiment: Experiment, ancestor: Ancestor | None) -> Experiment:
    """Put the weights of an ancestor, if there is one, into the model, and read its text."""
    if ancestor is None:
        return _with_old_text(experiment, None)
    model = experiment.model
    tokenizer = experiment.tokenizer
    counts = count_ids(experiment.tokens["train"].ids, tokenizer.vocabulary_size)
    weights = ancestor.weights_for(tokenizer, counts)
    if isinstance(model, TranslationModel):
        load_weights(model.decoder, _completed(weights, model.decoder), ancestor.folder)
    if not isinstance(model, LanguageModel):
        weights = _completed(weights, model)
    load_weights(model, weights, ancestor.folder)
    experiment = _with_old_text(experiment, ancestor.facts())
    start_loss = None
    if experiment.old_text is not None and isinstance(model, LanguageModel):
        start_loss = experiment.old_text.loss_nats(model, experiment.hardware)
    line = growth_line(ancestor, tokenizer, counts)
    return replace(
        experiment,
        ancestor=ancestor.facts() | {"start_loss_nats": start_loss},
        notices=(line, *experiment.notices),
    )


def _completed(weights: Tensors, model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model, those of its ancestor where it has weights of these names."""
    own = weights_of(model)
    return own | {name: weights[name] for name in own.keys() & weights.keys()}


def _with_old_text(experiment: Experiment, facts: dict[str, Any] | None) -> Experiment:
    """Add the text of the ancestor that `facts` describe, or a notice if it cannot be read."""
    if not isinstance(experiment.model, LanguageModel):  # The model predicts no whole text.
        return replace(experiment, ancestor=facts)
    old_text, notices = old_text_or_notice(facts, experiment.config, experiment.tokenizer)
    return replace(experiment, ancestor=facts, old_text=old_text, notices=notices)


def _corpus_facts(experiment: Experiment) -> dict[str, Any]:
    """Return the contents of corpus.json, which replaces the corpus where that is not available."""
    vocabulary_size = experiment.tokenizer.vocabulary_size
    return {
        "title": experiment.corpus.title,
        "fingerprints": _fingerprints(experiment.corpus),
        "parts": {part: tokens.counts.to_json() for part, tokens in experiment.tokens.items()},
        "vectors_share": experiment.vectors_fraction,
        "train_token_counts": count_ids(experiment.tokens["train"].ids, vocabulary_size).tolist(),
        **({"labels": list(experiment.labels)} if experiment.labels else {}),
        **({"ancestor": experiment.ancestor} if experiment.ancestor else {}),
    }


def _fingerprints(corpus: Corpus) -> dict[str, str]:
    return {part: text.fingerprint for part, text in corpus.parts.items()}


def _override(
    config: ResolvedConfig, budget: dict[str, float] | None, **changes: str | None
) -> ResolvedConfig:
    """Return a configuration with another budget and other training fields that are not None."""
    training = config.training.model_dump()
    training |= {name: value for name, value in changes.items() if value is not None}
    if budget:
        training |= dict.fromkeys(BUDGETS) | budget
    return check_resolved(config.model_dump() | {"training": training}, "resume")
