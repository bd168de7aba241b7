"""Begin a new run or resume an existing one."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from charlm.config.load import check_resolved
from charlm.config.schema import BUDGETS, Config, ResolvedConfig
from charlm.data.cards import Part, cache_folder
from charlm.data.corpus import Corpus, open_corpus
from charlm.data.resolve import resolve
from charlm.data.tokenizer import Tokenizer
from charlm.data.tokens import Report, Tokens, count_ids, encode_text, learn_or_load_tokenizer
from charlm.data.vectors import Vectors, read_vectors
from charlm.errors import CheckpointError, ConfigError
from charlm.model.embedding import put_vectors
from charlm.model.language_model import LanguageModel
from charlm.runs import checkpoint
from charlm.runs.checkpoint import Checkpoint, check_weights, load_checkpoint
from charlm.runs.experiment import Encoded, Experiment, save, training_windows
from charlm.runs.folder import beginning, check_new, load_run, lock_of, start_run
from charlm.runs.metrics import cut_metrics
from charlm.storage.atomic import remove_temporary_files
from charlm.storage.locks import ProcessLock
from charlm.training.averaging import Average
from charlm.training.devices import check_size, choose_device, choose_precision
from charlm.training.loop import TrainingState
from charlm.training.optimizer import make_optimizer
from charlm.training.process_group import SINGLE_PROCESS, Group


def encode(config: ResolvedConfig, *, workers: int = 1, report: Report | None = None) -> Encoded:
    """Read, learn and encode what a configuration names: it is in the cache then, for every run that reads the same.

    Args:
        config: Its corpus and its tokenizer count.
        workers: Processes that encode a large text.
        report: Called with bytes that are encoded, as they come.

    Raises:
        CharlmError: The corpus cannot be used, or the cache not be written.
    """
    corpus = open_corpus(config)
    tokenizer = learn_or_load_tokenizer(
        corpus.parts["train"], config.tokenizer, cache=cache_folder() / "tokens"
    )
    return Encoded(corpus, tokenizer, _tokens(corpus, tokenizer, workers, report))


def _tokens(
    corpus: Corpus, tokenizer: Tokenizer, workers: int, report: Report | None = None
) -> dict[Part, Tokens]:
    mode, cache = corpus.mode, cache_folder() / "tokens"
    return {
        part: encode_text(text, tokenizer, mode=mode, cache=cache, workers=workers, report=report)
        for part, text in corpus.parts.items()
    }


def begin(
    config: Config, folder: Path, *, group: Group = SINGLE_PROCESS, workers: int = 1
) -> Experiment:
    """Read and encode the corpus, make the model, and start the run folder, with a checkpoint of the first step.

    Of several processes the first one begins, and the others resume what it has begun. A large text is encoded by so
    many `workers`.

    Raises:
        CharlmError: The corpus, the device or the folder cannot be used.
    """
    check_new(folder)
    config = resolve(config)
    device = choose_device(config.training.device, local_rank=group.local_rank)
    encoded = encode(config, workers=workers)
    tokenizer = encoded.tokenizer
    vectors = _read_vectors(config, tokenizer)
    torch.manual_seed(config.training.seed)
    experiment = _assemble(folder, config, encoded, device, lock_of(folder), group)
    if vectors is not None and isinstance(experiment.model.encoder.embedding, nn.Embedding):
        put_vectors(
            experiment.model.encoder.embedding,
            torch.from_numpy(vectors.rows),
            torch.from_numpy(vectors.found),
        )
        kept = config.model.model_copy(
            update={"vectors": str(Path(config.model.vectors or "").absolute())}
        )
        experiment = replace(
            experiment,
            vectors_share=vectors.fraction_found,
            config=experiment.config.model_copy(update={"model": kept}),
        )
    next(
        training_windows(experiment)
    )  # A text too small for its window is told before a folder is made.
    with _held(experiment.lock):
        check_new(folder)  # Another may have begun there while this one read the text.
        with beginning(folder):
            save(experiment, "last")
            start_run(folder, experiment.config, tokenizer, _facts(experiment))
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
    """Take up a run where its last checkpoint left it.

    Args:
        folder: The run folder.
        budget: Another budget than the run's, such as {"minutes": 10}: all of it, what is spent included.
        device: Another device than the run's.
        on_divergence: Another way than the run's, such as `halve`.
        group: The processes that train together, as many as before or not; each of them calls this.
        workers: Processes that encode a large text, if it is not in the cache any more.

    Raises:
        CheckpointError: The folder is no run, is damaged, is being trained in, or its corpus is not what it was.
    """
    config, tokenizer, facts = load_run(folder)
    lock = lock_of(folder)
    with _held(lock) if group.is_first else nullcontext():
        config = _with_training(config, budget, {"device": device, "on_divergence": on_divergence})
        experiment = _resumed(folder, config, tokenizer, facts, lock, group, workers)
    if group.is_first:
        group.publish("folder", str(folder))
    return experiment


def _resumed(
    folder: Path,
    config: ResolvedConfig,
    tokenizer: Tokenizer,
    facts: dict[str, Any],
    lock: ProcessLock,
    group: Group,
    workers: int,
) -> Experiment:
    saved = load_checkpoint(folder / "last")
    check_weights(config.model, tokenizer.vocabulary_size, saved)
    corpus = open_corpus(config)
    if _fingerprints(corpus) != facts["fingerprints"]:
        raise CheckpointError(
            f"{folder}: the text it was trained on has changed since: {', '.join(config.corpus.text)}; put the old "
            "text back, or begin a new run"
        )
    device = choose_device(config.training.device, local_rank=group.local_rank)
    encoded = Encoded(corpus, tokenizer, _tokens(corpus, tokenizer, workers))
    experiment = _assemble(folder, config, encoded, device, lock, group)
    _go_to(experiment, saved)
    if group.is_first:
        remove_temporary_files(folder)
    return experiment


def _go_to(experiment: Experiment, saved: Checkpoint) -> None:
    """Go to where a checkpoint was written."""
    state, group = experiment.state, experiment.group
    if not group.is_first:  # What is dropped here is not what is dropped elsewhere.
        torch.manual_seed(
            np.random.SeedSequence((experiment.config.training.seed, group.rank)).generate_state(1)[
                0
            ]
        )
    checkpoint.restore(
        saved,
        experiment.model,
        experiment.optimizer,
        experiment.average,
        state,
        experiment.device,
        group,
    )
    if group.is_first:
        cut_metrics(experiment.folder, after_step=state.step, halvings=state.halvings)


@contextmanager
def _held(lock: ProcessLock) -> Iterator[None]:
    """Take a run folder's lock, and keep it unless something goes wrong."""
    lock.acquire(
        error_type=CheckpointError, remedy="wait until it ends, or give another run folder"
    )
    try:
        yield
    except BaseException:
        lock.release()
        raise


def _assemble(
    folder: Path,
    config: ResolvedConfig,
    encoded: Encoded,
    device: torch.device,
    lock: ProcessLock,
    group: Group,
) -> Experiment:
    """Make a new model and optimizer; weights come from torch's global generator."""
    if config.training.batch_size < group.size:
        raise ConfigError(
            f"training.batch_size: {config.training.batch_size} is less than a stream or record for each of "
            f"{group.size} processes; give at least {group.size}"
        )
    corpus, tokenizer = encoded.corpus, encoded.tokenizer
    check_size(config.model, tokenizer.vocabulary_size)
    model = LanguageModel(config.model, tokenizer.vocabulary_size).to(device)
    precision = choose_precision(config.training.precision, device)
    return Experiment(
        folder,
        config,
        corpus,
        tokenizer,
        encoded.tokens,
        model,
        make_optimizer(model, config.training, precision=precision),
        Average(model, config.training),
        TrainingState(),
        device,
        precision,
        lock,
        group,
    )


def _read_vectors(config: ResolvedConfig, tokenizer: Tokenizer) -> Vectors | None:
    if config.model.vectors is None:
        return None
    return read_vectors(Path(config.model.vectors), tokenizer, size=config.model.embedding_size)


def _facts(experiment: Experiment) -> dict[str, Any]:
    """Return what the run folder keeps of its corpus: it may be sent to where the corpus is not."""
    vocabulary_size = experiment.tokenizer.vocabulary_size
    return {
        "title": experiment.corpus.title,
        "fingerprints": _fingerprints(experiment.corpus),
        "parts": {part: tokens.counts.to_json() for part, tokens in experiment.tokens.items()},
        "vectors_share": experiment.vectors_share,
        "train_token_counts": count_ids(experiment.tokens["train"].ids, vocabulary_size).tolist(),
    }


def _fingerprints(corpus: Corpus) -> dict[str, str]:
    return {part: text.fingerprint for part, text in corpus.parts.items()}


def _with_training(
    config: ResolvedConfig, budget: dict[str, float] | None, changes: dict[str, str | None]
) -> ResolvedConfig:
    training = config.training.model_dump() | {
        name: value for name, value in changes.items() if value is not None
    }
    if budget:
        training |= dict.fromkeys(BUDGETS) | budget
    return check_resolved(config.model_dump() | {"training": training}, "resume")
