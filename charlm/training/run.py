"""One experiment from end to end: a configuration in, a stream of events out, a run folder left behind."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from charlm.config import BUDGETS, Config, Training, check_config
from charlm.data.cards import Part, cache_folder
from charlm.data.corpora import Corpus, open_corpus, suggested_level
from charlm.data.tokenizer import Ids, Tokenizer
from charlm.data.tokens import Report, Tokens, count_ids, encode_text, learn_from
from charlm.data.vectors import Vectors, read_vectors
from charlm.data.windows import (
    WARM_UP,
    Window,
    in_direction,
    record_windows,
    scoring_record_windows,
    scoring_windows,
    stream_windows,
)
from charlm.errors import CheckpointError, ConfigError, DivergenceError
from charlm.files import Lock, remove_leftovers
from charlm.model.embedding import put_vectors
from charlm.model.language_model import LanguageModel
from charlm.training import checkpoint
from charlm.training.averaging import Average
from charlm.training.group import ALONE, Group
from charlm.training.hardware import at_full_speed, check_size, choose_device, choose_precision
from charlm.training.loop import REMEDY, Objective, Progress, TrainingState, group_norms, steady, train
from charlm.training.loss import Score, score
from charlm.training.optimizer import gradient_group, make_optimizer, shard_optimizer

# While training, validation reads up to so many pieces of the split side by side, none shorter than so many tokens.
_VALIDATION_STREAMS, _VALIDATION_PIECE = 64, 1024
# Until a save was timed: a plain disk takes so many bytes a second; a weight has four, and Adam keeps two numbers more.
_BYTES_A_SECOND, _BYTES_A_WEIGHT = 1.5e8, 12


@dataclass(frozen=True)
class Experiment:
    """Everything that a training needs, made or loaded.

    Attributes:
        folder: The run folder.
        config: Resolved: nothing in it is left open.
        corpus: The text by parts.
        tokenizer: Learnt from its training part.
        tokens: Its parts, encoded.
        model: On `device`.
        optimizer: Of the model's parameters.
        average: Of the model's weights over its steps; where there is one, it is what is scored and kept as the best.
        state: Where the training stands; advanced by it.
        device: Where to compute.
        precision: What matrix products are computed in.
        lock: Of the run folder: held from the beginning until the training that `run` does is over, by the group's
            first process.
        group: The processes that train together, this one among them.
        vectors_share: Share of the vocabulary that a file of vectors had; None where there is none, or it is not known.
    """

    folder: Path
    config: Config
    corpus: Corpus
    tokenizer: Tokenizer
    tokens: dict[Part, Tokens]
    model: LanguageModel
    optimizer: torch.optim.Optimizer
    average: Average
    state: TrainingState
    device: torch.device
    precision: torch.dtype
    lock: Lock
    group: Group = ALONE
    vectors_share: float | None = None


@dataclass(frozen=True)
class Prepared:
    """Training is about to begin."""

    experiment: Experiment


@dataclass(frozen=True)
class Evaluated:
    """The model was scored on the validation split. It is saved as soon as saving does not take more than its share.

    Attributes:
        experiment: With the model as it was scored until training goes on: with averaged weights, where they are.
        score: On the validation split; None if there is none.
        metrics: The line that was added to metrics.jsonl.
        is_best: Whether it is the best so far, and kept as such.
    """

    experiment: Experiment
    score: Score | None
    metrics: dict[str, Any]
    is_best: bool


@dataclass(frozen=True)
class Halved:
    """Training diverged; it goes on from the last good evaluation, or the beginning, with half the rate.

    Attributes:
        experiment: As it was there.
        why: What the error would have said.
        metrics: The line that was added to metrics.jsonl.
    """

    experiment: Experiment
    why: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """Training is over and saved.

    Attributes:
        experiment: With the model as it was left.
        reason: `budget` (spent), `patience` (no new best) or `stopped` (asked to).
    """

    experiment: Experiment
    reason: str


Event = Prepared | Progress | Evaluated | Halved | Finished


@dataclass(frozen=True)
class Encoded:
    """A corpus, the tokenizer learnt from its training part, and the ids of its parts."""

    corpus: Corpus
    tokenizer: Tokenizer
    tokens: dict[Part, Tokens]


def encode(config: Config, *, workers: int = 1, report: Report | None = None) -> Encoded:
    """Read, learn and encode what a configuration names: it is in the cache then, for every run that reads the same.

    Args:
        config: Its corpus and its tokenizer count.
        workers: Processes that encode a large text.
        report: Called with bytes that are encoded, as they come.

    Raises:
        CharlmError: The corpus cannot be used, or the cache not be written.
    """
    config = _with_level_of_card(config)
    corpus = open_corpus(config.corpus, raw=config.tokenizer.level == "byte")
    tokenizer = learn_from(corpus.parts["train"], config.tokenizer, cache=cache_folder() / "tokens")
    return Encoded(corpus, tokenizer, _tokens(corpus, tokenizer, workers, report))


def _tokens(corpus: Corpus, tokenizer: Tokenizer, workers: int, report: Report | None = None) -> dict[Part, Tokens]:
    mode, cache = corpus.mode, cache_folder() / "tokens"
    return {part: encode_text(text, tokenizer, mode=mode, cache=cache, workers=workers, report=report)
            for part, text in corpus.parts.items()}  # fmt: skip


def begin(config: Config, folder: Path, *, group: Group = ALONE, workers: int = 1) -> Experiment:
    """Read and encode the corpus, make the model, and start the run folder, with a checkpoint of the first step.

    Of several processes the first one begins, and the others resume what it has begun. A large text is encoded by so
    many `workers`.

    Raises:
        CharlmError: The corpus, the device or the folder cannot be used.
    """
    checkpoint.check_new(folder)
    config = _with_level_of_card(config)
    device = choose_device(config.training.device, local=group.local)
    encoded = encode(config, workers=workers)
    tokenizer = encoded.tokenizer
    vectors = _read_vectors(config, tokenizer)
    torch.manual_seed(config.training.seed)
    experiment = _assemble(folder, config, encoded, device, checkpoint.lock_of(folder), group)
    if vectors is not None and isinstance(experiment.model.embedding, nn.Embedding):
        put_vectors(experiment.model.embedding, torch.from_numpy(vectors.rows), torch.from_numpy(vectors.found))
        kept = config.model.model_copy(update={"vectors": str(Path(config.model.vectors or "").absolute())})
        experiment = replace(
            experiment, vectors_share=vectors.share, config=experiment.config.model_copy(update={"model": kept})
        )
    next(training_windows(experiment))  # A text too small for its window is told before a folder is made.
    with _held(experiment.lock):
        checkpoint.check_new(folder)  # Another may have begun there while this one read the text.
        with checkpoint.beginning(folder):
            save(experiment, "last")
            checkpoint.start_run(folder, experiment.config, tokenizer, _facts(experiment))
    group.tell("folder", str(folder))
    return experiment


def resume(
    folder: Path,
    *,
    budget: dict[str, float] | None = None,
    device: str | None = None,
    on_divergence: str | None = None,
    group: Group = ALONE,
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
    config, tokenizer, facts = checkpoint.load_run(folder)
    lock = checkpoint.lock_of(folder)
    with _held(lock) if group.is_first else nullcontext():
        config = _with_training(config, budget, {"device": device, "on_divergence": on_divergence})
        experiment = _resumed(folder, config, tokenizer, facts, lock, group, workers)
    if group.is_first:
        group.tell("folder", str(folder))
    return experiment


def _resumed(
    folder: Path, config: Config, tokenizer: Tokenizer, facts: dict[str, Any], lock: Lock, group: Group, workers: int
) -> Experiment:
    saved = checkpoint.load_checkpoint(folder / "last")
    checkpoint.check_weights(config.model, tokenizer.vocabulary_size, saved)
    corpus = open_corpus(config.corpus, raw=config.tokenizer.level == "byte")
    if _fingerprints(corpus) != facts["fingerprints"]:
        raise CheckpointError(
            f"{folder}: the text it was trained on has changed since: {', '.join(config.corpus.text)}; put the old "
            "text back, or begin a new run"
        )
    device = choose_device(config.training.device, local=group.local)
    encoded = Encoded(corpus, tokenizer, _tokens(corpus, tokenizer, workers))
    experiment = _assemble(folder, config, encoded, device, lock, group)
    _go_to(experiment, saved)
    if group.is_first:
        remove_leftovers(folder)
    return experiment


def _go_to(experiment: Experiment, saved: checkpoint.Checkpoint) -> None:
    """Go to where a checkpoint was written."""
    state, group = experiment.state, experiment.group
    if not group.is_first:  # What is dropped here is not what is dropped elsewhere.
        torch.manual_seed(np.random.SeedSequence((experiment.config.training.seed, group.number)).generate_state(1)[0])
    checkpoint.restore(
        saved, experiment.model, experiment.optimizer, experiment.average, state, experiment.device, group
    )
    if group.is_first:
        checkpoint.cut_metrics(experiment.folder, after_step=state.step, halvings=state.halvings)


@contextmanager
def _held(lock: Lock) -> Iterator[None]:
    """Take a run folder's lock, and keep it unless something goes wrong."""
    lock.take(kind=CheckpointError, remedy="wait until it ends, or give another run folder")
    try:
        yield
    except BaseException:
        lock.release()
        raise


def run(
    experiment: Experiment, *, stop: Callable[[], bool] = lambda: False, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Event]:
    """Train, evaluate and save until the budget is spent, yielding what happens.

    Args:
        experiment: From `begin` or `resume`.
        stop: Asked after every step; when true, the step is saved and training ends.
        clock: Seconds.

    Raises:
        DivergenceError: The loss is no longer finite; the last good checkpoint is kept.
        CheckpointError: A checkpoint cannot be written, or another process trains in the folder.
        GroupError: A process of the group has ended, or does not answer.
    """
    group = experiment.group
    try:
        with at_full_speed(), _held(experiment.lock) if group.is_first else nullcontext(), group.watched():
            group.connect(experiment.device, timeout_seconds=experiment.config.training.timeout_seconds)
            yield from _run(experiment, stop, steady(clock))
            group.leave()
    finally:
        experiment.lock.release()


def _run(experiment: Experiment, stop: Callable[[], bool], clock: Callable[[], float]) -> Iterator[Event]:
    section, group = experiment.config.training, experiment.group
    if section.shard_optimizer and group.size > 1:
        experiment = replace(experiment, optimizer=shard_optimizer(experiment.optimizer, section))
    plain = Objective(experiment.model, section, device=experiment.device, precision=experiment.precision)
    objective = group.wrap(plain, section, all_used=plain.uses_every_parameter)
    yield Prepared(experiment)
    saves, good = _Saves(experiment, clock), experiment.folder / "good"
    if group.is_first and not saves.keeps_good:
        checkpoint.forget_checkpoint(good)  # Not to be gone back to by a later training from far ahead.
    if saves.keeps_good and any(group.total(group.is_first and not (good / "state.json").is_file())):
        save(experiment, "good")
    while True:
        try:
            reason = yield from _steps(experiment, objective, saves, stop, clock)
            break
        except GeneratorExit:  # Whoever asked for events has had enough, and may load the best next.
            saves.write_best()
            raise
        except DivergenceError as error:
            saves.write_best()
            diverged = error
        yield _halve(experiment, diverged)
    if saves.asked:
        saves.write()
    yield Finished(experiment, reason)


def _steps(
    experiment: Experiment,
    objective: nn.Module,
    saves: "_Saves",
    stop: Callable[[], bool],
    clock: Callable[[], float],
) -> Generator[Event, None, str]:
    """Train on, evaluating and saving; return why it ended."""
    section, state, group = experiment.config.training, experiment.state, experiment.group
    evaluated, totals = _evaluations_due(state.share(section), section), _Totals(experiment.model)
    for progress in train(
        experiment.model, training_windows(experiment), experiment.optimizer, section, state=state,
        average=experiment.average, group=group, objective=objective, device=experiment.device,
        precision=experiment.precision, clock=clock,
    ):  # fmt: skip
        yield progress
        totals.add(progress)
        # One that is asked to stop stops all; the first one's clock says when to save.
        due = _evaluations_due(progress.share, section)
        stopping, saving = group.total(stop(), group.is_first and due == evaluated and saves.are_due())
        if due > evaluated:
            evaluated = due
            event = _evaluate(experiment, progress, totals, clock, saves)
            with experiment.average.in_model():
                yield event
            totals = _Totals(experiment.model)
            if section.patience is not None and state.evaluations_since_best >= section.patience:
                return "patience"
        elif stopping or saving:
            _check(experiment, progress)
            saves.write()
        if stopping:
            return "stopped"
    return "budget"


def _halve(experiment: Experiment, error: DivergenceError) -> Halved:
    """Go back to the last good evaluation, to go on with half the rate.

    Raises:
        DivergenceError: That is not asked for, or was done as often as is allowed.
    """
    section, state = experiment.config.training, experiment.state
    if section.on_divergence == "stop":
        raise error
    if state.halvings >= section.halvings:
        raise DivergenceError(f"{error} (the rate was halved {state.halvings} times already)")
    halvings, seconds, diverged_at = state.halvings + 1, state.seconds, state.step
    experiment.group.wait()  # The first one may still be writing what all go back to.
    _go_to(experiment, checkpoint.load_checkpoint(experiment.folder / "good"))
    state.halvings, state.seconds = halvings, seconds  # What was spent is spent.
    metrics = {
        "step": state.step, "halvings": halvings, "diverged_after_step": diverged_at, "seconds": round(seconds, 3),
        "learning_rate": section.learning_rate * 0.5**halvings,
    }  # fmt: skip
    experiment.group.wait()  # Now all have read it.
    if experiment.group.is_first:
        checkpoint.append_metrics(experiment.folder, metrics)
    save(experiment, "last")
    save(experiment, "good")
    return Halved(experiment, str(error), metrics)


def training_windows(experiment: Experiment) -> Iterator[Window]:
    """Return the training text's windows from where the training stands, without end."""
    section, ids = experiment.config.training, experiment.tokens["train"].ids
    size, window, start = section.batch_size, section.window, experiment.state.position
    share = experiment.group.share

    def read(ids: Ids) -> Iterator[Window]:
        if experiment.corpus.mode == "records":
            return record_windows(ids, batch_size=size, window=window, seed=section.seed, start=start, share=share)
        return stream_windows(
            ids, batch_size=size, window=window, start=start, seed=section.seed, vary=section.vary_window,
            shuffle=section.partial_shuffle, share=share,
        )  # fmt: skip

    return in_direction(experiment.model.direction, ids, mode=experiment.corpus.mode, read=read)


def validate(experiment: Experiment) -> Score | None:
    """Score the validation split, whole; streams side by side, each with a warm-up. None where there is no split.

    Of several processes each scores a share; they call it together.
    """
    if "valid" not in experiment.tokens:
        return None
    group = experiment.group

    def read(ids: Ids) -> Iterator[Window]:
        if experiment.corpus.mode == "records":
            return scoring_record_windows(ids, share=group.share)
        streams = max(1, min(_VALIDATION_STREAMS, len(ids) // _VALIDATION_PIECE))
        return scoring_windows(ids, streams=streams, warm_up=WARM_UP, share=group.share)

    model, ids = experiment.model, experiment.tokens["valid"].ids
    windows = in_direction(model.direction, ids, mode=experiment.corpus.mode, read=read)
    own = score(model, windows, device=experiment.device, precision=experiment.precision)
    nats, tokens, correct = group.total(own.nats, own.tokens, own.correct)
    return Score(nats, int(tokens), correct)


def save(experiment: Experiment, which: Literal["last", "good"]) -> None:
    """Write a checkpoint of all that training goes on from; several processes call it together, the first writes."""
    model, average, state, group = experiment.model, experiment.average, experiment.state, experiment.group
    training = checkpoint.training_tensors(model, experiment.optimizer, average, state, experiment.device, group)
    if group.is_first:
        checkpoint.save_checkpoint(
            experiment.folder / which, checkpoint.state_facts(state, average),
            {"weights": checkpoint.weights_of(model) | average.weights, "training": training},
        )  # fmt: skip


class _Saves:
    """Writes checkpoints when they are due: soon, but so seldom that they take no more than a share of training's time.

    The best weights wait in memory. What a crash takes with it comes again: `last` is written after `best`, so that
    training goes on from before an evaluation whose weights are not on disk.

    Attributes:
        asked: Whether an evaluation waits to be saved.
        keeps_good: Whether evaluations are kept to go back to: then each is saved at once, so that where training
            goes back to does not depend on the clock.
    """

    def __init__(self, experiment: Experiment, clock: Callable[[], float]) -> None:
        self.asked = False
        self.keeps_good = experiment.config.training.on_divergence == "halve"
        self._experiment, self._clock, self._section = experiment, clock, experiment.config.checkpoint
        self._best: dict[str, Tensor] = {}
        self._best_facts: dict[str, Any] = {}
        self._good = False
        self._trained_before, self._ended = experiment.state.seconds, clock()
        weights = sum(tensor.numel() for tensor in experiment.model.parameters())
        self._spent, self._expected = 0.0, _BYTES_A_WEIGHT * weights / _BYTES_A_SECOND

    def note_evaluation(self, *, best: bool, good: bool) -> None:
        """Ask for the model as it stands to be saved, as the best so far or one to go back to, too."""
        experiment = self._experiment
        if best and experiment.group.is_first:
            weights = checkpoint.weights_of(experiment.model) | experiment.average.weights
            self._best = {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}
            self._best_facts = checkpoint.state_facts(experiment.state, experiment.average)
        self.asked, self._good = True, good and self.keeps_good

    def are_due(self) -> bool:
        """Return whether to write now: it is time, and takes no more than its share so far."""
        now, share = self._clock(), self._section.save_share
        if not self.asked and now - self._ended < self._section.save_seconds:
            return False
        if share is None or (self.asked and self.keeps_good):
            return True
        trained = self._experiment.state.seconds - self._trained_before
        return self._spent + self._expected <= share * trained

    def write(self) -> None:
        """Write what is to be kept, `last` in any case."""
        began = self._clock()
        self.write_best()
        if self._experiment.group.is_first:
            checkpoint.check_there(self._experiment.folder)
        save(self._experiment, "last")
        if self._good:
            save(self._experiment, "good")
        self.asked = self._good = False
        self._ended = self._clock()
        self._expected = self._ended - began
        self._spent += self._expected

    def write_best(self) -> None:
        """Write the best weights, if they are not on disk yet."""
        if self._best:
            checkpoint.check_there(self._experiment.folder)
            checkpoint.save_checkpoint(self._experiment.folder / "best", self._best_facts, {"weights": self._best})
            self._best = {}


class _Totals:
    """What steps told, summed up where it is, so that no step waits for the device."""

    def __init__(self, model: LanguageModel) -> None:
        self.groups = [gradient_group(name) for name, _ in model.named_parameters()]
        zero = next(model.parameters()).new_zeros((), dtype=torch.float64)
        self.loss = self.norm = self.norm_max = self.squares = self.by_norm = self.by_value = zero
        self.steps = 0

    def add(self, progress: Progress) -> None:
        """Add a step."""
        clipping = progress.clipping
        self.loss = self.loss + progress.loss
        self.norm = self.norm + clipping.norm
        self.norm_max = torch.maximum(self.norm_max, clipping.norm)
        self.squares = self.squares + clipping.norms.double().square()  # Of each parameter tensor.
        if clipping.by_norm is not None:
            self.by_norm = self.by_norm + clipping.by_norm
        if clipping.by_value is not None:
            self.by_value = self.by_value + clipping.by_value
        self.steps += 1

    def metrics(self, section: Training) -> dict[str, Any]:
        """Return what a line of metrics.jsonl tells of the steps; a share is None where nothing limits."""
        return {
            "training_loss_nats": float(self.loss) / self.steps,
            "gradient_norm": float(self.norm) / self.steps,
            "gradient_norm_max": float(self.norm_max),
            "clipped_share": None if section.clipnorm is None else float(self.by_norm) / self.steps,
            "clipped_by_value_share": None if section.clipvalue is None else float(self.by_value) / self.steps,
            "gradient_norms": group_norms((self.squares / self.steps).sqrt(), self.groups),
        }


def _check(experiment: Experiment, progress: Progress) -> None:
    """Raise DivergenceError if the loss, its gradient or the weights that came of them are not finite."""
    progress.check()
    sizes = torch.stack(torch._foreach_norm(list(experiment.model.parameters()), math.inf))
    if not sizes.isfinite().all():
        sizes_by_group = group_norms(sizes, progress.groups)
        group = max(sizes_by_group, key=sizes_by_group.__getitem__)
        raise DivergenceError(f"step {progress.step}: the weights of {group} are no longer finite; {REMEDY}")


def _evaluate(
    experiment: Experiment, progress: Progress, totals: _Totals, clock: Callable[[], float], saves: _Saves
) -> Evaluated:
    """Score the model, note it in metrics.jsonl and have it saved, also as the best if it is."""
    _check(experiment, progress)
    began = clock()
    state, average = experiment.state, experiment.average
    with average.in_model():
        scored = validate(experiment)
    if scored is not None:
        if not math.isfinite(scored.loss_nats):
            raise DivergenceError(f"step {state.step}: the validation loss is {scored.loss_nats}; {REMEDY}")
        average.note(scored.loss_nats)
    is_best = scored is None or state.best_loss_nats is None or scored.loss_nats < state.best_loss_nats
    state.evaluations_since_best = 0 if is_best else state.evaluations_since_best + 1
    state.stalls += not is_best
    if is_best:
        state.best_loss_nats = scored.loss_nats if scored else None
    # No worse than guessing: what to go back to.
    good = scored is None or scored.loss_nats <= math.log(experiment.tokenizer.vocabulary_size)
    saves.note_evaluation(best=is_best, good=good)
    metrics: dict[str, Any] = {
        "step": state.step, "epochs": round(state.epochs, 4), "tokens": state.tokens,
        "seconds": round(state.seconds, 3), "evaluation_seconds": round(clock() - began, 3),
        "learning_rate": progress.learning_rate, **totals.metrics(experiment.config.training), "is_best": is_best,
    }  # fmt: skip
    if scored is not None:
        counts = experiment.tokens["valid"].counts
        metrics |= {
            "loss_nats": scored.loss_nats, "perplexity": scored.perplexity,
            "bits_per_character": scored.bits_per(counts.characters), "bits_per_byte": scored.bits_per(counts.bytes),
        }  # fmt: skip
    group = experiment.group
    if group.is_first:
        checkpoint.check_there(experiment.folder)
        checkpoint.append_metrics(experiment.folder, metrics)  # Before the save: what has none then comes again.
    if any(group.total(group.is_first and saves.are_due())):
        saves.write()
    return Evaluated(experiment, scored, metrics, is_best)


def _evaluations_due(share: float, section: Training) -> int:
    return int(min(share, 1.0) * section.evaluations + 1e-9)


def _assemble(
    folder: Path,
    config: Config,
    encoded: Encoded,
    device: torch.device,
    lock: Lock,
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
        folder, config.model_copy(update={"corpus": corpus.section}), corpus, tokenizer, encoded.tokens, model,
        make_optimizer(model, config.training, precision=precision), Average(model, config.training), TrainingState(),
        device, precision, lock, group,
    )  # fmt: skip


def _with_level_of_card(config: Config) -> Config:
    """Return the configuration with the tokenizer's level that the corpus card suggests, where none was given."""
    level = suggested_level(config.corpus)
    if level is None or "level" in config.tokenizer.model_fields_set:
        return config
    tokenizer = config.tokenizer.model_dump(exclude_unset=True) | {"level": level}
    return check_config(config.model_dump() | {"tokenizer": tokenizer}, config.corpus.text[0])


def _read_vectors(config: Config, tokenizer: Tokenizer) -> Vectors | None:
    if config.model.vectors is None:
        return None
    return read_vectors(Path(config.model.vectors), tokenizer, size=config.model.embedding_size)


def _facts(experiment: Experiment) -> dict[str, Any]:
    """Return what the run folder keeps of its corpus: it may be sent to where the corpus is not."""
    vocabulary_size = experiment.tokenizer.vocabulary_size
    return {
        "title": experiment.corpus.title,
        "fingerprints": _fingerprints(experiment.corpus),
        "parts": {part: asdict(tokens.counts) for part, tokens in experiment.tokens.items()},
        "vectors_share": experiment.vectors_share,
        "train_token_counts": count_ids(experiment.tokens["train"].ids, vocabulary_size).tolist(),
    }


def _fingerprints(corpus: Corpus) -> dict[str, str]:
    return {part: text.fingerprint for part, text in corpus.parts.items()}


def _with_training(config: Config, budget: dict[str, float] | None, changes: dict[str, str | None]) -> Config:
    training = config.training.model_dump() | {name: value for name, value in changes.items() if value is not None}
    if budget:
        training |= dict.fromkeys(BUDGETS) | budget
    return check_config(config.model_dump() | {"training": training}, "--resume")
