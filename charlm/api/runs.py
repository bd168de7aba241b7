"""Runs with their models in memory: what a command does with a run, a method does."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from charlm import trained_model
from charlm.config.schema import ResolvedConfig
from charlm.config.values import check_names, checked
from charlm.data.cards import Part
from charlm.data.labels import Labels
from charlm.data.listing import shown_title
from charlm.data.tokenizer import Tokenizer
from charlm.errors import CheckpointError, OptionError, refuse_beside
from charlm.evaluation.options import ScoringOptions
from charlm.model.label_model import LabelModel
from charlm.model.language_model import LanguageModel
from charlm.model.translation_model import TranslationModel
from charlm.runs.files import CheckpointName
from charlm.runs.metrics import flat_metrics, level_of_scores, read_metrics
from charlm.runs.progress_bar import validation_score
from charlm.sampling.completion import complete
from charlm.sampling.fill import Fill, fill
from charlm.sampling.next_tokens import NextTokens, next_tokens
from charlm.sampling.options import (
    TEXT_SEPARATOR,
    CompletionOptions,
    FillOptions,
    NextOptions,
    SampleOptions,
    SearchOptions,
    StateSource,
    build_options,
    check_stream,
)
from charlm.sampling.sample import Sample, sample, stream
from charlm.sampling.saved_state import GenerationState, state_to_bytes
from charlm.sampling.search import search
from charlm.storage.arguments import refuse_file_name
from charlm.storage.atomic import atomic_write
from charlm.storage.results import ResultList
from charlm.tasks.label_run import Predicted, TrainedLabelModel, predict
from charlm.trained_model import Trained, TrainedModel, TrainedTranslator

if TYPE_CHECKING:
    from charlm.compression.compress import Compression
    from charlm.evaluation.comparison import Comparison
    from charlm.evaluation.novelty.results import Novelty
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
    from charlm.views.report import Report

StrPath = str | Path
_Result = TypeVar("_Result")
_Trained = TypeVar("_Trained", bound=TrainedModel | TrainedTranslator | TrainedLabelModel)


@dataclass(frozen=True, repr=False)
class _LoadedRun(Generic[_Trained]):
    """What the runs of all models have in common; abstract.

    Attributes:
        trained: Model, tokenizer, configuration, device and origin.
    """

    trained: _Trained

    def __post_init__(self) -> None:
        """Raise OptionError if a run folder is given instead of its model."""
        if isinstance(self.trained, str | Path):
            problem = "must be a trained model; load a run folder with charlm.load"
            raise OptionError("trained", problem, value=str(self.trained))

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
            f"text: {shown_title(self.corpus['title'])}; validation: {score}"
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

    @checked
    def report(self, others: "Sequence[AnyRun]" = (), **options: Any) -> "Report":
        """Return a report on this run and others, which a notebook shows.

        Args:
            others: Runs to compare this one with.
            options: Fields of `ReportOptions`, such as `text` and `sections`.
        """
        from charlm.views.report import report_on

        return report_on([self.trained, *(run.trained for run in others)], options)


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

    @checked
    def sample(
        self,
        *,
        state_in: StrPath | StateSource | GenerationState | None = None,
        state_out: StrPath | None = None,
        **options: Any,
    ) -> ResultList[Sample]:
        """Write texts; options as in `SampleOptions` and the options within it.

        `state_in` and `state_out` are files: the text continues from the state in the first, and
        its state is written to the second.
        """
        given = _sample_options(options, state_in, state_out)
        return sample_to_file(self.trained, given, state_out)

    @checked
    def stream(
        self,
        *,
        state_in: StrPath | StateSource | GenerationState | None = None,
        state_out: StrPath | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Write one text, yielding the prompt and then each piece; options as for `sample`."""
        given = _sample_options(options, state_in, state_out)
        check_stream(given)
        return stream_to_file(self.trained, given, state_out)

    def search(self, **options: Any) -> ResultList[Sample]:
        """Search for the most probable texts; options as in `SearchOptions`."""
        return _texts(self.trained, search(self.trained, build_options(SearchOptions, options)))

    @checked
    def complete(self, sources: str | Sequence[str], **options: Any) -> list[str]:
        """Return the target of each source, with a model of task `complete`.

        Options as in `CompletionOptions`.
        """
        return _complete(self.trained, sources, options)

    @checked
    def completions(self, split: Part = "valid", **options: Any) -> "Completions":
        """Complete the sources of a part of the corpus, and compare with the right targets.

        Options as in `CompletionOptions`.
        """
        return _completions(self.trained, split, options)

    @checked
    def fill(self, text: str, **options: Any) -> ResultList[Fill]:
        """Fill the gap, ____, in a text; options as in `FillOptions`."""
        given = build_options(FillOptions, {"text": text} | options)
        return ResultList(fill(self.trained, given))

    def next_tokens(self, prompt: str = "", **options: Any) -> NextTokens:
        """Return the most probable next tokens of a prompt; options as in `NextOptions`."""
        return next_tokens(self.trained, build_options(NextOptions, {"prompt": prompt} | options))

    def perplexity(self, text: str | None = None, **options: Any) -> "Perplexity":
        """Score a text; options as in `ScoringOptions`."""
        from charlm.evaluation.perplexity import measure_perplexity

        check_names(options, [field.name for field in fields(ScoringOptions)])
        _check_text({"text": text} | options)
        return measure_perplexity(self.trained, ScoringOptions(text, **options))

    def sentences(self, sentences: Sequence[str] | None = None, **options: Any) -> "Sentences":
        """Score sentences, each by itself; options as in `score_sentences`."""
        from charlm.evaluation.sentences import score_sentences

        return _measure(score_sentences, self.trained, sentences, **options)

    def surprise(self, text: str | None = None, **options: Any) -> "Surprisal":
        """Measure the surprisal of each token of a text; options as in `measure_surprisal`."""
        from charlm.evaluation.surprisal import measure_surprisal

        return _measure(measure_surprisal, self.trained, text, **options)

    @checked
    def compare(
        self, others: Sequence["Run"], text: str | None = None, **options: Any
    ) -> "Comparison":
        """Score this run and others on the same text; options as in `compare`."""
        from charlm.evaluation.comparison import compare

        return _measure(compare, [self.trained, *(run.trained for run in others)], text, **options)

    def agreement(self, pairs: str | Path | None = None, **options: Any) -> "Agreement":
        """Measure the accuracy on minimal pairs; options as in `measure_agreement`."""
        from charlm.evaluation.probes.agreement import measure_agreement

        if pairs is not None:
            refuse_beside("pairs", "which has the sentences", **options)
        return _measure(measure_agreement, self.trained, pairs, **options)

    def parity(self, **options: Any) -> "Parity":
        """Measure the accuracy on the parity of bit strings; options as in `measure_parity`."""
        from charlm.evaluation.probes.parity import measure_parity

        return _measure(measure_parity, self.trained, **options)

    def gradients(self, text: str | None = None, **options: Any) -> "Gradients":
        """Measure the gradient of a token's loss over the tokens before it.

        Options as in `measure_gradients`.
        """
        from charlm.evaluation.probes.gradients import measure_gradients

        return _measure(measure_gradients, self.trained, text, **options)

    def memory(self, text: str | None = None, **options: Any) -> "Memory":
        """Measure which earlier tokens each prediction depends on; see `measure_memory`."""
        from charlm.evaluation.probes.memory import measure_memory

        return _measure(measure_memory, self.trained, text, **options)

    def context(self, text: str | None = None, **options: Any) -> "Context":
        """Measure the loss by the number of context tokens; see `measure_context`."""
        from charlm.evaluation.probes.context import measure_context

        return _measure(measure_context, self.trained, text, **options)

    def cells(self, text: str | None = None, **options: Any) -> "Cells":
        """Find the unit that follows each label of a text; see `measure_cells`."""
        from charlm.evaluation.probes.cells import measure_cells

        return _measure(measure_cells, self.trained, text, **options)

    def novelty(self, samples: Sequence[str] | None = None, **options: Any) -> "Novelty":
        """Measure how much of sampled texts is copied; options as in `measure_novelty`."""
        from charlm.evaluation.novelty.measure import measure_novelty

        for name, given in (("samples", samples), ("path", options.get("path"))):
            if given is not None:
                written = {
                    option: options.get(option) for option in ("size", "temperature", "seed")
                }
                refuse_beside(name, "which has the samples", **written)
        return _measure(measure_novelty, self.trained, samples, **options)

    def compress(self, data: bytes, **options: Any) -> bytes:
        """Compress bytes with the model's probabilities; options as in `compress`."""
        from charlm.compression.compress import alphabet_of, compress

        return _measure(compress, data, self.model, alphabet_of(self.trained), **options)

    def measure_compression(self, data: bytes, **options: Any) -> "tuple[Compression, bytes]":
        """Compress bytes, and compare the size with other compressors; options as in `compress`."""
        from charlm.compression.compress import alphabet_of, measure_compression

        facts = trained_model.provenance(self.trained)
        alphabet = alphabet_of(self.trained)
        return _measure(
            measure_compression, data, self.model, alphabet, provenance=facts, **options
        )

    def decompress(self, data: bytes, **options: Any) -> bytes:
        """Return the bytes that `compress` of the same run compressed."""
        from charlm.compression.compress import alphabet_of, decompress

        return _measure(decompress, data, self.model, alphabet_of(self.trained), **options)


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

    @checked
    def predict(self, texts: Sequence[str]) -> ResultList[Predicted]:
        """Return the label of each text, or of each of its tokens, with probabilities.

        Raises:
            CharlmError: A text is empty.
        """
        return ResultList(predict(self.trained, texts), separator="\n\n")

    @checked
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

    @checked
    def complete(self, sources: str | Sequence[str], **options: Any) -> list[str]:
        """Return the target of each source; options as in `CompletionOptions`."""
        return _complete(self.trained, sources, options)

    @checked
    def completions(self, split: Part = "valid", **options: Any) -> "Completions":
        """Write the targets of a part of the corpus, and compare with the right ones.

        Options as in `CompletionOptions`.
        """
        return _completions(self.trained, split, options)

    @checked
    def attention(self, source: str, **options: Any) -> "Attention":
        """Write the target of a source; return what the decoder attended to.

        Options as in `CompletionOptions`.

        Raises:
            CharlmError: The model has no attention.
        """
        from charlm.tasks.attention import read_attention

        return read_attention(self.trained, source, build_options(CompletionOptions, options))


AnyRun = Run | LabelRun | Translator


def sample_to_file(
    trained: TrainedModel, options: SampleOptions, state_out: StrPath | None
) -> ResultList[Sample]:
    """Write texts; write the state of the text to a file if it may be continued later.

    Raises:
        CheckpointError: The file cannot be written, or the saved state cannot be read.
        CharlmError: As for `charlm.sampling.sample.sample`.
    """
    samples = sample(trained, options)
    if state_out is not None and samples[0].state is not None:
        _write_state(Path(state_out), samples[0].state, trained)
    return _texts(trained, samples)


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


def _texts(trained: TrainedModel, samples: list[Sample]) -> ResultList[Sample]:
    """Return texts that are printed with what is between two of them in the corpus."""
    return ResultList(samples, separator=trained.record_separator or TEXT_SEPARATOR)


def _complete(
    trained: Trained[Any], sources: str | Sequence[str], options: dict[str, Any]
) -> list[str]:
    given = [sources] if isinstance(sources, str) else sources
    return complete(trained, given, build_options(CompletionOptions, options))


def _completions(trained: Trained[Any], split: Part, options: dict[str, Any]) -> "Completions":
    from charlm.tasks.completion import measure_completion

    return measure_completion(trained, split, build_options(CompletionOptions, options))


def _sample_options(
    options: dict[str, Any],
    state_in: StrPath | StateSource | GenerationState | None,
    state_out: StrPath | None,
) -> SampleOptions:
    source = Path(state_in) if isinstance(state_in, str) else state_in
    files = {"state_in": source, "state_out": state_out is not None}
    return build_options(SampleOptions, options | files)


def _measure(measure: Callable[..., _Result], *arguments: Any, **options: Any) -> _Result:
    """Call a measure with options whose types are checked, and whose counts are not negative."""
    signature = inspect.signature(measure)
    check_names(options, signature.parameters)
    files = "path" if "path" in signature.parameters else "paths"
    _check_text(signature.bind(*arguments, **options).arguments, files)

    @functools.wraps(measure)
    def call(*converted: Any, **options: Any) -> _Result:
        for name, value in options.items():
            if isinstance(value, int) and value < 0:
                raise OptionError(name, "must not be negative", value=value)
        return measure(*converted, **options)

    return checked(call)(*arguments, **options)


def _check_text(given: Mapping[str, Any], files: str = "paths") -> None:
    """Raise OptionError if a text is the name of a file, or is given beside `split`.

    Args:
        given: Arguments of a measure, by name.
        files: Name of the argument for files.
    """
    for option in ("text", "sentences", "samples"):
        refuse_file_name(option, given.get(option), "use {} for files", others=[files])
    if given.get("split") is not None:
        texts = {name: given.get(name) for name in ("text", files)}
        refuse_beside("split", "which is a part of the run's own corpus", **texts)


def _write_state(path: Path, state: GenerationState, trained: TrainedModel) -> None:
    remedy = "name another file for the state"
    with atomic_write(path, error_type=CheckpointError, remedy=remedy) as file:
        file.write(state_to_bytes(state, trained.model))
