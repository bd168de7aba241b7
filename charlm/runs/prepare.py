"""Begin a new run, or resume an existing one."""

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from charlm.config.load import check_resolved
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.training import BUDGETS
from charlm.data.corpus import Corpus
from charlm.data.listing import shown_names
from charlm.data.resolve import resolve
from charlm.data.tokens import count_ids
from charlm.errors import CheckpointError, ConfigError, UnsupportedOptionError, counted
from charlm.model.any_model import head_of, make_model
from charlm.runs.checkpoint import Checkpoint, load_checkpoint
from charlm.runs.encoding import EncodedCorpus, encode, encode_again
from charlm.runs.experiment import Experiment, training_windows
from charlm.runs.files import BEGIN_AGAIN
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
from charlm.runs.initial_weights import with_initial_weights, with_old_text
from charlm.runs.snapshot import rewind, save_snapshot
from charlm.runs.step_metrics import StepMetrics
from charlm.runs.validation import small_split
from charlm.runs.verify import budget_of
from charlm.runs.verify_weights import check_weights
from charlm.runs.warm_start import Ancestor
from charlm.runs.without_effect import settings_without_effect
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
    torch.manual_seed(config.training.seed)
    hardware = Hardware(device, choose_precision(config.training.precision, device))
    experiment = _assemble(folder, config, encoded, hardware, run_lock(folder), group)
    experiment = with_initial_weights(experiment, ancestor)
    layers = experiment.model.encoder.recurrence.layers
    unused = settings_without_effect(config, layers)
    notices = (*experiment.notices, *unused, *small_split(experiment))
    experiment = replace(experiment, notices=notices)
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
        budget: Total budget instead of that of the checkpoint, such as {"minutes": 10}.
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
        saved = load_checkpoint(folder / "last")
        total = budget or dict([budget_of(saved.state, run.config.training)])
        config = _override(run.config, total, device=device, on_divergence=on_divergence)
        experiment = _load(run._replace(config=config), saved, lock, group, workers)
    if group.is_first:
        group.publish("folder", str(folder))
    return experiment


def _load(
    run: RunFiles, saved: Checkpoint, lock: ProcessLock, group: Group, workers: int
) -> Experiment:
    """Return the experiment of an existing run, as it was at a checkpoint."""
    folder, config, tokenizer = saved.folder.parent, run.config, run.tokenizer
    check_weights(
        saved.weights, config.model, tokenizer.vocabulary_size, place=saved.folder, head=run.head
    )
    corpus = open_run_corpus(folder, config, run.corpus)
    if _fingerprints(corpus) != run.corpus["fingerprints"]:
        raise CheckpointError(
            f"{folder}: its text has changed since it was trained: "
            f"{shown_names(config.corpus.text)}; restore the text, or begin a new run"
        )
    device = choose_device(config.training.device, local_rank=group.local_rank)
    encoded = encode_again(corpus, run, workers=workers)
    hardware = _resumed_hardware(config.training.precision, saved.state["precision"], device)
    experiment = _assemble(folder, config, encoded, hardware, lock, group)
    experiment = with_old_text(experiment, run.corpus.get("ancestor"))
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
    noun = unit.removesuffix("s")
    experiment.lock.release()
    enough = math.ceil(used + total) if unit == "steps" else math.ceil(10 * (used + total)) / 10
    raise UnsupportedOptionError(
        unit,
        f"nothing is left to train in {experiment.folder}: its budget is a total, "
        f"{counted(total, noun)}, and it has used {counted(round(used, 4), noun)}; give a larger "
        f"total, such as {{}} {enough:.15g}",
        others=[unit],
    )


def _used_budget(experiment: Experiment) -> tuple[str, ...]:
    """Return a line about the budget of a resumed run."""
    unit, total = experiment.config.training.budget
    used = round(experiment.state.used(unit), 4)
    step = experiment.state.step
    if step == 0:  # Several processes begin with a run that was prepared for them.
        return ()
    shown = counted(total, unit.removesuffix("s"))
    return (f"continuing after step {step:,}: {used:,.15g} of {shown} in total are used",)


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
        step_metrics=StepMetrics(model),
        hardware=hardware,
        lock=lock,
        group=group,
        labels=encoded.labels,
    )


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
    config: ResolvedConfig, budget: dict[str, float], **changes: str | None
) -> ResolvedConfig:
    """Return a configuration with a budget and other training fields that are not None."""
    training = config.training.model_dump() | dict.fromkeys(BUDGETS) | budget
    training |= {name: value for name, value in changes.items() if value is not None}
    return check_resolved(config.model_dump() | {"training": training}, "resume")
