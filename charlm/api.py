"""The Python interface: `train` and `load` return a `Run`.

The commands that write or score with a run, such as `sample`, are its methods. Models of labels
are a `LabelRun`, from `train_labels` and `load_labels`; an encoder and decoder are a `Translator`,
from `train_translator` and `load_translator`. `resume` returns what the run is.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import torch

from charlm import trained_model
from charlm.config.load import change_config
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.training import BUDGETS
from charlm.data.cards import Part
from charlm.data.labels import Labels
from charlm.data.tokenizer import Tokenizer
from charlm.errors import CharlmError, CheckpointError, OptionError
from charlm.evaluation.options import ScoringOptions
from charlm.model.label_model import LabelModel
from charlm.model.language_model import LanguageModel
from charlm.model.translation_model import TranslationModel
from charlm.runs import prepare, session
from charlm.runs.automatic import choice
from charlm.runs.automatic.choice import ChosenConfig
from charlm.runs.experiment import Evaluated, Events, Experiment
from charlm.runs.files import RUNS, CheckpointName
from charlm.runs.folder import new_folder, newest_run
from charlm.runs.listing import RunSummary, SeedScores, find_runs, summarize, summarize_seeds
from charlm.runs.metrics import flat_metrics, read_metrics
from charlm.runs.progress_bar import level_of_scores, shown, validation_score
from charlm.runs.signals import interrupt_signals, stop_requests
from charlm.runs.warm_start import Vocabulary, inherit, open_ancestor
from charlm.sampling.completion import complete
from charlm.sampling.during_training import sampled
from charlm.sampling.fill import Fill as Fill
from charlm.sampling.fill import fill
from charlm.sampling.next_tokens import NextTokens as NextTokens
from charlm.sampling.next_tokens import next_tokens
from charlm.sampling.options import (
    CompletionOptions,
    FillOptions,
    NextOptions,
    SampleOptions,
    SearchOptions,
    build_options,
)
from charlm.sampling.sample import Sample as Sample
from charlm.sampling.sample import sample, stream
from charlm.sampling.saved_state import GenerationState, state_to_bytes
from charlm.sampling.search import search
from charlm.storage.atomic import atomic_write
from charlm.tasks import label_run
from charlm.tasks.label_run import Predicted, TrainedLabelModel, predict
from charlm.tracking import check_installed, tracked
from charlm.trained_model import (
    LanguageModelRequiredError,
    Trained,
    TrainedModel,
    TrainedTranslator,
)

if TYPE_CHECKING:
    from charlm.compression.compress import Compression
    from charlm.evaluation.comparison import Comparison
    from charlm.evaluation.novelty import Novelty
    from charlm.evaluation.perplexity import Perplexity
    from charlm.evaluation.probes.agreement import Agreement
    from charlm.evaluation.probes.cells import Cells
    from charlm.evaluation.probes.context import Context
    from charlm.evaluation.probes.gradients import Gradients
    from charlm.evaluation.probes.memory import Memory
    from charlm.evaluation.probes.parity import Parity
    from charlm.evaluation.sentences import Sentences
    from charlm.evaluation.surprisal import Surprisal
    from charlm.tasks.attention import Attention
    from charlm.tasks.completion import Completions
    from charlm.tasks.labels import LabelScores
    from charlm.views.measurements import AnyTrained
    from charlm.views.report import Report

StrPath = str | Path
Texts = StrPath | Sequence[StrPath]


_Trained = TypeVar("_Trained", bound=TrainedModel | TrainedTranslator | TrainedLabelModel)


@dataclass(frozen=True, repr=False)
class _LoadedRun(Generic[_Trained]):
    """What the runs of all models have in common; abstract.

    Attributes:
        trained: Model, tokenizer, configuration, device and origin.
    """

    trained: _Trained

    def __repr__(self) -> str:
        """Return three lines: the checkpoint, the model, and its text with the score."""
        sizes = ", ".join(map(str, self.config.model.hidden_sizes))
        parameters = sum(tensor.numel() for tensor in self.trained.model.parameters())
        level, vocabulary = self.config.tokenizer.level, self.tokenizer.vocabulary_size
        kind, step = type(self).__name__, self.state["step"]
        score = validation_score(self.history, step, level_of_scores(self.config))
        return (
            f"{kind} {self.folder}: {self.which} checkpoint, step {step:,}\n"
            f"model: {self.config.model.cell.kind} of {sizes} units, {parameters:,} parameters; "
            f"level {level}, vocabulary of {vocabulary:,} tokens\n"
            f"text: {self.corpus['title']}; validation: {score}"
        )

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, with a name such as `gradient_norms/layer_0` for each number.

        `pandas.DataFrame(run.history)` is a table of them.
        """
        return [flat_metrics(line) for line in read_metrics(self.folder)]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.trained.origin.folder

    @property
    def which(self) -> CheckpointName:
        """The checkpoint, `best` or `last`."""
        return self.trained.origin.which

    @property
    def corpus(self) -> dict[str, Any]:
        """Facts about the corpus."""
        return self.trained.origin.corpus

    @property
    def state(self) -> dict[str, Any]:
        """Facts about the checkpoint, such as `step`."""
        return self.trained.origin.state

    @property
    def config(self) -> ResolvedConfig:
        """The resolved configuration."""
        return self.trained.config

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, learned from the training text."""
        return self.trained.tokenizer

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.trained.device

    def report(self, others: "Sequence[AnyRun]" = (), **options: Any) -> "Report":
        """Return a report on this run and others, which a notebook shows.

        Args:
            others: Runs to compare this one with.
            options: Fields of `ReportOptions`, such as `text` and `sections`.
        """
        return _report([self.trained, *(run.trained for run in others)], options)


@dataclass(frozen=True, repr=False)
class Run(_LoadedRun[TrainedModel]):
    """A trained model in its run folder.

    Attributes:
        trained: Model, tokenizer, configuration, device and origin.
    """

    @property
    def model(self) -> LanguageModel:
        """The model in evaluation mode."""
        return self.trained.model

    @property
    def writes_records(self) -> bool:
        """Whether the model ends a text with <EOS>."""
        return self.trained.writes_records

    def with_int8(self) -> "Run":
        """Return this run with a model that computes its products in int8, for inference.

        Raises:
            OptionError: The model is not on the processor.
        """
        return Run(trained_model.with_int8(self.trained))

    def sample(self, *, state_out: StrPath | None = None, **options: Any) -> list[Sample]:
        """Write texts; options as in `SampleOptions` and the options within it.

        `state_in` and `state_out` are files: the text continues from the state in the first, and
        its state is written to the second.
        """
        return sample_to_file(self.trained, _sample_options(options, state_out), state_out)

    def stream(self, *, state_out: StrPath | None = None, **options: Any) -> Iterator[str]:
        """Write one text, yielding the prompt and then each piece; options as for `sample`."""
        return stream_to_file(self.trained, _sample_options(options, state_out), state_out)

    def search(self, **options: Any) -> list[Sample]:
        """Search for the most probable texts; options as in `SearchOptions`."""
        return search(self.trained, build_options(SearchOptions, options))

    def complete(self, sources: str | Sequence[str], **options: Any) -> list[str]:
        """Return the target of each source, with a model of task `complete`.

        Options as in `CompletionOptions`.
        """
        return _complete(self.trained, sources, options)

    def completions(self, split: Part = "valid", **options: Any) -> "Completions":
        """Complete the sources of a part of the corpus, and compare with the right targets.

        Options as in `CompletionOptions`.
        """
        return _completions(self.trained, split, options)

    def fill(self, text: str, **options: Any) -> list[Fill]:
        """Fill the gap, ____, in a text; options as in `FillOptions`."""
        return fill(self.trained, build_options(FillOptions, {"text": text} | options))

    def next_tokens(self, prompt: str = "", **options: Any) -> NextTokens:
        """Return the most probable next tokens of a prompt; options as in `NextOptions`."""
        return next_tokens(self.trained, build_options(NextOptions, {"prompt": prompt} | options))

    def perplexity(self, text: str | None = None, **options: Any) -> "Perplexity":
        """Score a text; options as in `ScoringOptions`."""
        from charlm.evaluation.perplexity import measure_perplexity

        return measure_perplexity(self.trained, ScoringOptions(text, **options))

    def sentences(self, sentences: Sequence[str] | None = None, **options: Any) -> "Sentences":
        """Score sentences, each by itself; options as in `score_sentences`."""
        from charlm.evaluation.sentences import score_sentences

        return score_sentences(self.trained, sentences, **options)

    def surprise(self, text: str | None = None, **options: Any) -> "Surprisal":
        """Measure the surprisal of each token of a text; options as in `measure_surprisal`."""
        from charlm.evaluation.surprisal import measure_surprisal

        return measure_surprisal(self.trained, text, **options)

    def compare(
        self, others: Sequence["Run"], text: str | None = None, **options: Any
    ) -> "Comparison":
        """Score this run and others on the same text; options as in `compare`."""
        from charlm.evaluation.comparison import compare

        return compare([self.trained, *(run.trained for run in others)], text, **options)

    def agreement(self, pairs: str | Path | None = None, **options: Any) -> "Agreement":
        """Measure the accuracy on minimal pairs; options as in `measure_agreement`."""
        from charlm.evaluation.probes.agreement import measure_agreement

        return measure_agreement(self.trained, pairs, **options)

    def parity(self, **options: Any) -> "Parity":
        """Measure the accuracy on the parity of bit strings; options as in `measure_parity`."""
        from charlm.evaluation.probes.parity import measure_parity

        return measure_parity(self.trained, **options)

    def gradients(self, text: str | None = None, **options: Any) -> "Gradients":
        """Measure the gradient of a token's loss over the tokens before it.

        Options as in `measure_gradients`.
        """
        from charlm.evaluation.probes.gradients import measure_gradients

        return measure_gradients(self.trained, text, **options)

    def memory(self, text: str | None = None, **options: Any) -> "Memory":
        """Measure which earlier tokens each prediction depends on; see `measure_memory`."""
        from charlm.evaluation.probes.memory import measure_memory

        return measure_memory(self.trained, text, **options)

    def context(self, text: str | None = None, **options: Any) -> "Context":
        """Measure the loss by the number of context tokens; see `measure_context`."""
        from charlm.evaluation.probes.context import measure_context

        return measure_context(self.trained, text, **options)

    def cells(self, text: str | None = None, **options: Any) -> "Cells":
        """Find the unit that follows each label of a text; see `measure_cells`."""
        from charlm.evaluation.probes.cells import measure_cells

        return measure_cells(self.trained, text, **options)

    def novelty(self, samples: Sequence[str] | None = None, **options: Any) -> "Novelty":
        """Measure how much of sampled texts is copied; options as in `measure_novelty`."""
        from charlm.evaluation.novelty import measure_novelty

        return measure_novelty(self.trained, samples, **options)

    def compress(self, data: bytes, **options: Any) -> bytes:
        """Compress bytes with the model's probabilities; options as in `compress`."""
        from charlm.compression.compress import alphabet_of, compress

        return compress(data, self.model, alphabet_of(self.trained), **options)

    def measure_compression(self, data: bytes, **options: Any) -> "tuple[Compression, bytes]":
        """Compress bytes, and compare the size with other compressors; options as in `compress`."""
        from charlm.compression.compress import alphabet_of, measure_compression

        facts = trained_model.provenance(self.trained)
        alphabet = alphabet_of(self.trained)
        return measure_compression(data, self.model, alphabet, provenance=facts, **options)

    def decompress(self, data: bytes, **options: Any) -> bytes:
        """Return the bytes that `compress` of the same run compressed."""
        from charlm.compression.compress import alphabet_of, decompress

        return decompress(data, self.model, alphabet_of(self.trained), **options)


@dataclass(frozen=True, repr=False)
class LabelRun(_LoadedRun[TrainedLabelModel]):
    """A trained model of task classify or tag in its run folder.

    Attributes:
        trained: Model, tokenizer, configuration, labels, device and origin.
    """

    @property
    def model(self) -> LabelModel:
        """The model in evaluation mode."""
        return self.trained.model

    @property
    def labels(self) -> Labels:
        """Labels that the model chooses from."""
        return self.trained.labels

    def predict(self, texts: Sequence[str]) -> list[Predicted]:
        """Return the label of each text, or of each of its tokens, with probabilities.

        Raises:
            CharlmError: A text is empty.
        """
        return predict(self.trained, texts)

    def scores(self, split: Part = "valid") -> "LabelScores":
        """Label a part of the corpus, and compare with the right labels."""
        from charlm.tasks.labels import measure_labels

        return measure_labels(self.trained, split)


@dataclass(frozen=True, repr=False)
class Translator(_LoadedRun[TrainedTranslator]):
    """A trained encoder and decoder in its run folder.

    Attributes:
        trained: Model, tokenizer, configuration, device and origin.
    """

    @property
    def model(self) -> TranslationModel:
        """The model in evaluation mode."""
        return self.trained.model

    def complete(self, sources: str | Sequence[str], **options: Any) -> list[str]:
        """Return the target of each source; options as in `CompletionOptions`."""
        return _complete(self.trained, sources, options)

    def completions(self, split: Part = "valid", **options: Any) -> "Completions":
        """Write the targets of a part of the corpus, and compare with the right ones.

        Options as in `CompletionOptions`.
        """
        return _completions(self.trained, split, options)

    def attention(self, source: str, **options: Any) -> "Attention":
        """Write the target of a source; return what the decoder attended to.

        Options as in `CompletionOptions`.

        Raises:
            CharlmError: The model has no attention.
        """
        from charlm.tasks.attention import read_attention

        return read_attention(self.trained, source, build_options(CompletionOptions, options))


AnyRun = Run | LabelRun | Translator


def train(
    text: Config | Texts,
    *,
    out: StrPath | None = None,
    from_run: StrPath | None = None,
    from_vocabulary: Vocabulary = "grow",
    track: Literal["tensorboard"] | None = None,
    progress: bool = True,
    on_evaluation: Callable[[Evaluated], object] | None = None,
    overrides: Sequence[str] = (),
    **training: Any,
) -> Run:
    """Train a model and return the best checkpoint of the run.

        run = charlm.train("novel.txt", minutes=5)
        run = charlm.train(charlm.load_config("quickstart"), seed=2, progress=False)
        run = charlm.train("titles.txt", from_run="runs/english", minutes=2)

    Args:
        text: Files, folders, globs or corpora, for which `choose` chooses the settings; or a
            configuration, from `load_config`.
        out: Run folder; None makes a new one under `runs/`.
        from_run: Run folder whose weights and tokenizer the training starts from.
        from_vocabulary: `grow`: tokens that are only in the new text are added; `keep`: they are
            read as <UNK>.
        track: Also write metrics and samples for TensorBoard, to the folder `tensorboard` of the
            run folder.
        progress: Whether to show a bar and a line per evaluation on stderr, or in a notebook.
        on_evaluation: Function that is called after each evaluation. `event.metrics` is the new
            line of metrics.jsonl. An exception ends the training.
        overrides: Changes such as `model.hidden_size=256`.
        training: Fields of the section `training`, such as `minutes`, `steps`, `epochs` or `seed`.

    Ctrl-C finishes the step and saves before KeyboardInterrupt is raised; `resume` continues.

    Raises:
        CharlmError: A setting is wrong; the corpus, the device or the folder cannot be used; or the
            training diverged.
    """
    if track is not None:
        check_installed()
    changes = [*overrides, *_training_overrides(training)]
    experiment, observers = _begin(
        text, changes, out, from_run, from_vocabulary, check=_check_language_model
    )
    observers = observers._replace(track=track, progress=progress, on_evaluation=on_evaluation)
    _run_to_the_end(experiment, observers)
    return load(experiment.folder)


def train_labels(
    text: Config | Texts,
    *,
    task: Literal["classify", "tag"] = "classify",
    out: StrPath | None = None,
    from_run: StrPath | None = None,
    progress: bool = True,
    overrides: Sequence[str] = (),
    **training: Any,
) -> LabelRun:
    """Train a model that labels texts or their tokens; return the best checkpoint of the run.

        run = charlm.train_labels("reviews.csv", minutes=1)
        print(run.predict(["a wonderful film"])[0].labels[0].label)

    Args:
        text: Table of texts and labels, or a configuration.
        task: `classify`: one label for each text; `tag`: one label for each token.
        out: As for `train`.
        from_run: Language model whose encoder the training starts from.
        progress: As for `train`.
        overrides: As for `train`.
        training: As for `train`.

    Raises:
        CharlmError: As for `train`.
    """
    changes = [*overrides, f"task.kind={task}", *_training_overrides(training)]
    experiment, observers = _begin(text, changes, out, from_run)
    _run_to_the_end(experiment, observers._replace(progress=progress))
    return load_labels(experiment.folder)


def train_translator(
    text: Config | Texts,
    *,
    out: StrPath | None = None,
    from_run: StrPath | None = None,
    progress: bool = True,
    overrides: Sequence[str] = (),
    **training: Any,
) -> Translator:
    """Train an encoder and a decoder; return the best checkpoint of the run.

        run = charlm.train_translator("dates.tsv", minutes=1)
        print(run.complete("3 May 2021"))

    Args:
        text: Table of sources and targets, or a configuration.
        out: As for `train`.
        from_run: Language model whose weights both sides start from.
        progress: As for `train`.
        overrides: As for `train`.
        training: As for `train`.

    Raises:
        CharlmError: As for `train`.
    """
    changes = [*overrides, "task.kind=translate", *_training_overrides(training)]
    experiment, observers = _begin(text, changes, out, from_run)
    _run_to_the_end(experiment, observers._replace(progress=progress))
    return load_translator(experiment.folder)


def _begin(
    text: Config | Texts,
    changes: Sequence[str],
    out: StrPath | None,
    from_run: StrPath | None,
    from_vocabulary: Vocabulary = "grow",
    check: Callable[[Config], None] = lambda _: None,
) -> "tuple[Experiment, _Observers]":
    """Begin a run; return it with observers that know why its settings were chosen.

    Args:
        text: As for `train`.
        changes: Changes such as `model.hidden_size=256`.
        out: As for `train`.
        from_run: As for `train`.
        from_vocabulary: As for `train`.
        check: Function that raises an error, before a folder is made, if the run must not begin.
    """
    ancestor = None if from_run is None else open_ancestor(Path(from_run), from_vocabulary)
    reasons: Sequence[str] = ()
    if isinstance(text, Config):
        config = change_config(text, changes)
        if ancestor is not None:
            config = inherit(config, ancestor)
    else:
        config, reasons = choice.choose([*changes, _text_override(text)], ancestor=ancestor)
    check(config)
    with new_folder(None if out is None else Path(out), _run_name(text)) as folder:
        experiment = prepare.begin(config, folder, ancestor=ancestor)
    return experiment, _Observers(first_lines=reasons)


def _check_language_model(config: Config) -> None:
    """Raise CharlmError if the task of a configuration makes no language model."""
    task = config.task
    if task.has_labels or task.kind == "translate":
        call = "train_labels" if task.has_labels else "train_translator"
        raise CharlmError(
            f"task.kind: {task.kind} makes no language model, and charlm.train returns one; call "
            f"charlm.{call}"
        )


def resume(
    folder: StrPath,
    *,
    device: str | None = None,
    on_divergence: Literal["stop", "halve"] | None = None,
    track: Literal["tensorboard"] | None = None,
    progress: bool = True,
    on_evaluation: Callable[[Evaluated], object] | None = None,
    **budget: float | None,
) -> AnyRun:
    """Continue a run from its last save, and return its best checkpoint.

    It is a `Run`; a `LabelRun` of task classify or tag; or a `Translator`. The result is the same
    as if the training had never stopped.

    Args:
        folder: Run folder.
        device: Device instead of the run's own.
        on_divergence: Value of `training.on_divergence` instead of the run's own.
        track: As for `train`.
        progress: As for `train`.
        on_evaluation: As for `train`.
        budget: One of `minutes`, `steps` and `epochs` (passes over the text): the total budget of
            the run instead of its own.

    Raises:
        CharlmError: The run cannot be continued, its budget is spent, or the training diverged.
        OptionError: There is no such budget.
    """
    for name in budget:
        if name not in BUDGETS:
            raise OptionError(name, f"no such option; a budget is one of {', '.join(BUDGETS)}")
    if track is not None:
        check_installed()
    experiment = prepare.resume(
        Path(folder),
        budget={name: amount for name, amount in budget.items() if amount is not None},
        device=device,
        on_divergence=on_divergence,
    )
    prepare.check_budget(experiment)
    _run_to_the_end(experiment, _Observers(track, progress, on_evaluation))
    return load_any(experiment.folder)


def train_seeds(
    text: Config | Texts,
    seeds: Iterable[int],
    *,
    out: StrPath | None = None,
    progress: bool = True,
    overrides: Sequence[str] = (),
    **training: Any,
) -> SeedScores:
    """Train once per seed, with the same settings; return mean, deviation and range of the scores.

        scores = charlm.train_seeds("novel.txt", range(1, 6), steps=2000)

    Args:
        text: As for `train`. Settings are chosen once.
        seeds: At least two seeds of initial weights, dropout and data order.
        out: Folder of the run folders `seed-1`, `seed-2` ...; None makes new ones under `runs/`.
        progress: As for `train`.
        overrides: As for `train`.
        training: As for `train`.

    Raises:
        CharlmError: As for `train`; or there are fewer than two seeds, or no validation part.
    """
    chosen = list(seeds)
    if len(set(chosen)) < 2 or len(set(chosen)) < len(chosen):
        raise OptionError("seeds", "must be at least two different seeds", value=chosen)
    if isinstance(text, Config):
        config = change_config(text, [*overrides, *_training_overrides(training)])
    else:
        config = choose(text, overrides=overrides, **training).config
    folders = []
    for seed in chosen:
        seeded = change_config(config, [f"training.seed={seed}"])
        given = None if out is None else Path(out) / f"seed-{seed}"
        with new_folder(given, f"{_run_name(text)}-seed-{seed}") as folder:
            experiment = prepare.begin(seeded, folder)
        _run_to_the_end(experiment, _Observers(progress=progress))
        folders.append(experiment.folder)
    return summarize_seeds(folders)


def choose(text: Texts, *, overrides: Sequence[str] = (), **training: Any) -> ChosenConfig:
    """Choose settings for a text, this device and a budget, as `train` does.

        config, reasons = charlm.choose("novel.txt", minutes=5)

    Args:
        text: Files, folders, globs or corpora.
        overrides: Settings to keep, such as `model.hidden_size=256`.
        training: Fields of the section `training` to keep, such as `minutes`.

    Raises:
        CharlmError: A setting is wrong, or the text cannot be read.
    """
    return choice.choose([*overrides, *_training_overrides(training), _text_override(text)])


def load(
    folder: StrPath | None = None, *, which: CheckpointName = "best", device: str = "auto"
) -> Run:
    """Load a trained model. Nothing in the run folder is executed.

    Args:
        folder: Run folder; None takes the newest under `runs/`.
        which: `best` by validation loss, or `last`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, independent of the device of the training.

    Raises:
        CheckpointError: The folder is no run folder, or is damaged.
    """
    folder = Path(folder) if folder is not None else newest_run(RUNS)
    return Run(trained_model.load(folder, which, device))


def load_labels(folder: StrPath, which: CheckpointName = "best", device: str = "auto") -> LabelRun:
    """Load a trained model of labels. Nothing in the run folder is executed.

    Args:
        folder: Run folder.
        which: As for `load`.
        device: As for `load`.

    Raises:
        CheckpointError: The folder is no run folder, or is damaged.
        CharlmError: The model has another task.
    """
    return LabelRun(label_run.load_labels(Path(folder), which, device))


def load_translator(
    folder: StrPath, which: CheckpointName = "best", device: str = "auto"
) -> Translator:
    """Load a trained encoder and decoder; arguments and exceptions as for `load_labels`."""
    return Translator(trained_model.load_translator(Path(folder), which, device))


def load_any(
    folder: StrPath | None = None, *, which: CheckpointName = "best", device: str = "auto"
) -> AnyRun:
    """Load a trained model: a `Run`, a `LabelRun` of task classify or tag, or a `Translator`.

    Args:
        folder: As for `load`.
        which: As for `load`.
        device: As for `load`.

    Raises:
        CheckpointError: As for `load`.
    """
    try:
        return load(folder, which=which, device=device)
    except LanguageModelRequiredError as error:
        load_it = load_translator if error.kind == "translate" else load_labels
        return load_it(error.folder, which, device)


def report(runs: AnyRun | Sequence[AnyRun], **options: Any) -> "Report":
    """Return a report on one or several runs, which a notebook shows.

        charlm.report(charlm.load_labels("runs/reviews"))

    Args:
        runs: The runs; the others are compared with the first.
        options: Fields of `ReportOptions`, such as `text` and `sections`.
    """
    given = [runs] if isinstance(runs, AnyRun) else runs
    return _report([run.trained for run in given], options)


def write_report(
    runs: Sequence[AnyRun],
    out: StrPath | None = None,
    *,
    report_progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Path:
    """Write a report on one or several runs: one HTML file that needs no network.

    Args:
        runs: The runs; the others are compared with the first.
        out: File to write; by default `report.html` in the folder of the first run.
        report_progress: Function that is called with the name of each measure before it begins.
        options: Fields of `ReportOptions`, such as `text` and `sections`.

    Returns:
        The file.

    Raises:
        OptionError: A section does not exist.
        CharlmError: The file cannot be written.
    """
    report = _report([run.trained for run in runs], options, report_progress)
    path = Path(out) if out is not None else runs[0].folder / "report.html"
    remedy = "name a file that can be written with --out"
    with atomic_write(path, error_type=CharlmError, remedy=remedy) as file:
        file.write(report.html.encode())
    return path


def _report(
    models: "Sequence[AnyTrained]",
    options: Mapping[str, Any],
    report_progress: Callable[[str], None] = lambda _: None,
) -> "Report":
    from charlm.views.measurements import ReportOptions, measure
    from charlm.views.report import make_report

    shown = ReportOptions(**options)
    return make_report(measure(models, shown, report_progress=report_progress), shown.sections)


def list_runs(folder: StrPath = RUNS) -> list[RunSummary]:
    """Return settings and validation scores of the runs in a folder and in its subfolders.

    `pandas.DataFrame([run.to_json() for run in charlm.list_runs()])` is a table of them.

    Raises:
        CharlmError: There are no runs, or one of them is damaged.
    """
    return [summarize(path) for path in find_runs(Path(folder))]


def sample_to_file(
    trained: TrainedModel, options: SampleOptions, state_out: StrPath | None
) -> list[Sample]:
    """Write texts; write the state of the text to a file if it may be continued later.

    Raises:
        CheckpointError: The file cannot be written, or the saved state cannot be read.
        CharlmError: As for `charlm.sampling.sample.sample`.
    """
    samples = sample(trained, options)
    if state_out is not None and samples[0].state is not None:
        _write_state(Path(state_out), samples[0].state, trained)
    return samples


def stream_to_file(
    trained: TrainedModel, options: SampleOptions, state_out: StrPath | None
) -> Iterator[str]:
    """Yield the pieces of one text; then write its state to a file if it may be continued later.

    Raises:
        CharlmError: As for `sample_to_file`.
    """
    state = yield from stream(trained, options)
    if state_out is not None:
        _write_state(Path(state_out), state, trained)


class _Observers(NamedTuple):
    """What observes a training: arguments of `train`, and lines to show before it."""

    track: Literal["tensorboard"] | None = None
    progress: bool = True
    on_evaluation: Callable[[Evaluated], object] | None = None
    first_lines: Sequence[str] = ()


def _run_to_the_end(experiment: Experiment, observers: _Observers) -> None:
    """Train to the end of the budget.

    After Ctrl-C or an exception of an observer, the last step is saved before it is raised.
    """
    with stop_requests(interrupt_signals()) as stop:
        events = sampled(experiment, session.run(experiment, stop=stop))
        if observers.track is not None:
            events = tracked(experiment, events)
        with closing(events), closing(_observed(experiment, events, observers)) as observed:
            for event in observed:
                if observers.on_evaluation is not None and isinstance(event, Evaluated):
                    observers.on_evaluation(event)
    if stop():
        raise KeyboardInterrupt


def _observed(experiment: Experiment, events: Events, observers: _Observers) -> Events:
    if not observers.progress:
        return events
    return shown(experiment, events, first_lines=observers.first_lines)


def _text_override(text: Texts) -> str:
    return f"corpus.text={json.dumps(_names(text))}"


def _names(text: Texts) -> list[str]:
    return [str(text)] if isinstance(text, str | Path) else list(map(str, text))


def _run_name(text: Config | Texts) -> str:
    """Return the first part of the name of a new run folder."""
    return "run" if isinstance(text, Config) else Path(_names(text)[0]).stem or "run"


def _training_overrides(fields: Mapping[str, Any]) -> list[str]:
    return [f"training.{name}={json.dumps(value)}" for name, value in fields.items()]


def _complete(
    trained: Trained[Any], sources: str | Sequence[str], options: dict[str, Any]
) -> list[str]:
    given = [sources] if isinstance(sources, str) else sources
    return complete(trained, given, build_options(CompletionOptions, options))


def _completions(trained: Trained[Any], split: Part, options: dict[str, Any]) -> "Completions":
    from charlm.tasks.completion import measure_completion

    return measure_completion(trained, split, build_options(CompletionOptions, options))


def _sample_options(options: dict[str, Any], state_out: StrPath | None) -> SampleOptions:
    values = options | {"state_out": state_out is not None}
    if isinstance(options.get("state_in"), str):
        values["state_in"] = Path(options["state_in"])
    return build_options(SampleOptions, values)


def _write_state(path: Path, state: GenerationState, trained: TrainedModel) -> None:
    remedy = "name another file for the state"
    with atomic_write(path, error_type=CheckpointError, remedy=remedy) as file:
        file.write(state_to_bytes(state, trained.model))
