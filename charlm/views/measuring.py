"""What a report measures: each measure that is defined for a run, in the order of the sections."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from charlm.errors import CharlmError
from charlm.evaluation.comparison import Comparison, compare, require_models
from charlm.evaluation.probes.agreement import measure_agreement
from charlm.evaluation.probes.cells import Cells, measure_cells, require_forward, track_units
from charlm.evaluation.probes.context import measure_context, require_one_long_text
from charlm.evaluation.probes.embeddings import (
    measure_embeddings,
    vectors_of,
)
from charlm.evaluation.probes.gates import measure_gates, require_gates
from charlm.evaluation.probes.gradients import measure_gradients
from charlm.evaluation.probes.known_letters import measure_known_letters, require_characters
from charlm.evaluation.probes.memory import BOTH_DIRECTIONS, measure_memory
from charlm.evaluation.probes.passage import Passage, measure_passage
from charlm.evaluation.static_model import require_one_probability
from charlm.evaluation.surprisal import measure_surprisal
from charlm.evaluation.text_files import decode_utf8
from charlm.model.language_model import count_parameters
from charlm.model_texts import corpus_part, original_bytes
from charlm.runs.metrics import read_metrics
from charlm.runs.samples import read_samples
from charlm.sampling.options import CompletionOptions
from charlm.tasks.attention import read_attention
from charlm.tasks.completion import Completions, measure_completion
from charlm.tasks.label_run import TrainedLabelModel
from charlm.tasks.labels import measure_labels
from charlm.trained_model import (
    LanguageModelRequiredError,
    Trained,
    TrainedModel,
    TrainedTranslator,
    require_one_direction,
)
from charlm.views.measurements import (
    AnyTrained,
    Measurements,
    Reason,
    RunMeasurements,
    TaskScores,
)
from charlm.views.options import ReportOptions

_CHARACTERS_PER_TOKEN = 20  # Most characters that are expected in a passage for each token.
_ATTENTIONS = 4  # Sources whose attention is drawn.
_EXAMPLES = 12  # First records of a task that are shown.
_TARGET_LENGTH = 200  # Most tokens of a target that a model of a task writes.
_Measured = TypeVar("_Measured")


def measure(
    models: Sequence[AnyTrained],
    options: ReportOptions,
    *,
    report_progress: Callable[[str], None] = lambda _: None,
) -> Measurements:
    """Measure everything that a report shows.

    Args:
        models: Trained models, one for each run.
        options: Sections, and the passage.
        report_progress: Function that is called with the name of each measure before it begins, if
            the measure is defined for the run.
    """
    names = _names([model.folder for model in models])
    text = options.text or _passage_of(models, options.passage_tokens)
    runs = [
        replace(_measure_run(name, model, options, text, report_progress), number=number)
        for number, (name, model) in enumerate(zip(names, models, strict=True))
    ]
    comparison: Comparison | Reason | None = None
    if len(models) > 1:
        comparison = _result(_comparison(models), lambda: report_progress("comparison"))
    return Measurements(runs, comparison)


def _attempt(measure_one: Callable[[], _Measured]) -> _Measured | Reason:
    """Return a measurement, or the reason why it is not defined for the run."""
    try:
        return measure_one()
    except CharlmError as error:
        return Reason(str(error))


@dataclass(frozen=True)
class _Measure:
    """A measure of a report.

    Attributes:
        sections: Sections that need it.
        measure: Function that measures it.
        check: Function that raises CharlmError at once if the measure is not defined.
    """

    sections: tuple[str, ...]
    measure: Callable[[], Any]
    check: Callable[[], object] = lambda: None


def _result(measure: _Measure, report_begin: Callable[[], None]) -> Any:
    """Return a measurement, or the reason why there is none.

    Args:
        measure: The measure.
        report_begin: Function that is called before a measure that is defined.
    """
    refusal = _attempt(measure.check)
    if isinstance(refusal, Reason):
        return refusal
    report_begin()
    return _attempt(measure.measure)


def _refused(sections: tuple[str, ...], error: CharlmError) -> _Measure:
    """Return a measure that is not defined for a run."""

    def refuse() -> None:
        raise error

    return _Measure(sections, refuse, refuse)


def _comparison(models: Sequence[AnyTrained]) -> _Measure:
    """Return the comparison of all runs on one text."""
    language_models = [model for model in models if isinstance(model, TrainedModel)]
    if any(model.config.task.has_pairs for model in models):
        problem = "only language models are compared on one text"
        return _refused((), CharlmError(f"{problem}; the table of runs has the scores of tasks"))
    return _Measure((), partial(compare, language_models), partial(require_models, language_models))


def _passage_of(models: Sequence[AnyTrained], tokens: int) -> str | None:
    """Return the beginning of the validation split of the first language model."""
    for model in models:
        if isinstance(model, TrainedModel) and not model.config.task.has_pairs:
            return _beginning_of_split(model, tokens)
    return None


def _beginning_of_split(trained: TrainedModel, tokens: int) -> str | None:
    """Return the beginning of a run's validation split, from the first line that is whole."""
    original = _attempt(
        lambda: decode_utf8(original_bytes(corpus_part(trained, "valid")), "the validation split")
    )
    if isinstance(original, Reason):
        return None
    separator = trained.config.corpus.separator or "\n"
    text = original[: _CHARACTERS_PER_TOKEN * tokens].replace(separator, "\n").lstrip("\n")
    first_line, _, rest = text.partition("\n")
    is_cut = trained.mode == "stream" and len(first_line) < tokens
    return rest.lstrip("\n") or text if is_cut else text


def _names(folders: Sequence[Path]) -> list[str]:
    """Return a different name for each folder: its own, or as much of its path as is needed.

    A folder that occurs again is numbered, as in "small" and "small (2)".
    """
    paths = [folder.absolute() for folder in folders]
    for depth in count(1):
        names = {path: "/".join(path.parts[-depth:]) for path in paths}
        if len(set(names.values())) == len(names):
            break
    occurrences = [paths[:number].count(path) + 1 for number, path in enumerate(paths)]
    return [
        f"{names[path]} ({occurrence})" if occurrence > 1 else names[path]
        for path, occurrence in zip(paths, occurrences, strict=True)
    ]


def _measure_run(
    name: str,
    trained: AnyTrained,
    options: ReportOptions,
    text: str | None,
    report_progress: Callable[[str], None],
) -> RunMeasurements:
    results: dict[str, Any] = {}
    if isinstance(trained, TrainedModel) and not trained.config.task.has_pairs:
        measures = _text_measures(trained, options, text)
    else:
        measures = _task_measures(trained, options)
    for field, measure in measures.items():
        if set(measure.sections) & set(options.sections):
            report_begin = partial(report_progress, f"{name}: {field}")
            results[field] = _result(measure, report_begin)
    if isinstance(trained, TrainedModel):
        results |= _tracks(trained, results)
    if isinstance(trained, TrainedTranslator):
        results |= _attention(trained, results)
    return RunMeasurements(
        number=0,
        name=name,
        trained=trained,
        metrics=[row for row in read_metrics(trained.folder) if "loss_nats" in row],
        samples=read_samples(trained.folder),
        tensors=count_parameters(trained.model),
        **results,
    )


def _tracks(trained: TrainedModel, results: dict[str, Any]) -> dict[str, Any]:
    """Return the units on the passage, if both were measured."""
    cells, passage = results.get("cells"), results.get("passage")
    if not isinstance(cells, Cells) or not isinstance(passage, Passage):
        return {}
    ids = [token.token for token in passage.tokens]
    return {"tracks": _attempt(lambda: track_units(trained, ids, cells))}


def _attention(trained: TrainedTranslator, results: dict[str, Any]) -> dict[str, Any]:
    """Return what a decoder attends to while it writes the first targets, if it is one."""
    task = results.get("task")
    if not isinstance(task, Completions):
        return {}
    options = CompletionOptions(length=_TARGET_LENGTH, allow_unknown=True)
    sources = [example.source for example in task.examples[:_ATTENTIONS]]
    read = _attempt(lambda: [read_attention(trained, source, options) for source in sources])
    return {"attention": read}


def _text_measures(
    trained: TrainedModel, options: ReportOptions, text: str | None
) -> dict[str, _Measure]:
    """Return the measures of a language model by the names of their results."""
    no_task = CharlmError(f"{trained.folder}: the run is a language model, which has no task")
    return {
        "task": _refused(("task",), no_task),
        **_measures_of_predictions(trained, options, text),
        **_measures_of_the_network(trained, options),
    }


def _measures_of_predictions(
    trained: TrainedModel, options: ReportOptions, text: str | None
) -> dict[str, _Measure]:
    tokens = options.probe_tokens
    has_one_probability = partial(require_one_probability, trained.model)
    return {
        "passage": _Measure(
            ("surprisal", "cells"),
            lambda: measure_passage(trained, text, tokens=options.passage_tokens),
            has_one_probability,
        ),
        "surprisal": _Measure(
            ("surprisal",),
            lambda: measure_surprisal(trained, show=0, limit=tokens // 2),
            has_one_probability,
        ),
        "letters": _Measure(
            ("memory",),
            lambda: measure_known_letters(trained, tokens=tokens),
            partial(require_characters, trained),
        ),
        "memory": _Measure(
            ("memory",),
            lambda: measure_memory(trained, text, tokens=options.memory_tokens),
            partial(require_one_direction, trained, BOTH_DIRECTIONS),
        ),
    }


def _measures_of_the_network(trained: TrainedModel, options: ReportOptions) -> dict[str, _Measure]:
    tokens = options.probe_tokens
    return {
        "context": _Measure(
            ("context",),
            lambda: measure_context(trained, targets=options.context_targets),
            partial(require_one_long_text, trained),
        ),
        "gradients": _Measure(("context",), lambda: measure_gradients(trained, windows=16)),
        "cells": _Measure(
            ("cells",),
            lambda: measure_cells(trained, tokens=tokens),
            partial(require_forward, trained),
        ),
        "gates": _Measure(
            ("cells",),
            lambda: measure_gates(trained, tokens=tokens // 2),
            partial(require_gates, trained),
        ),
        "embeddings": _Measure(
            ("embeddings",),
            lambda: measure_embeddings(trained),
            partial(vectors_of, trained),
        ),
        "agreement": _Measure(
            ("agreement",),
            lambda: measure_agreement(trained),
            partial(_require_agreement_corpus, trained),
        ),
    }


def _task_measures(run: AnyTrained, options: ReportOptions) -> dict[str, _Measure]:
    """Return the measures of a model of a task; those that need predictions of a text fail."""
    refusal = LanguageModelRequiredError(run.folder, run.config)

    def scores() -> TaskScores:
        if isinstance(run, TrainedLabelModel):
            records = options.task_records
            return measure_labels(run, "valid", records=records, examples=_EXAMPLES)
        return _completions(run, options)

    of_text = {
        "passage": ("surprisal", "cells"),
        "memory": ("memory",),
        "context": ("context",),
        "gradients": ("context",),
        "cells": ("cells",),
        "agreement": ("agreement",),
    }
    return {field: _refused(sections, refusal) for field, sections in of_text.items()} | {
        "task": _Measure(("task",), scores),
        "embeddings": _Measure(
            ("embeddings",), lambda: measure_embeddings(run), partial(vectors_of, run)
        ),
    }


def _completions(trained: Trained[Any], options: ReportOptions) -> Completions:
    return measure_completion(
        trained,
        "valid",
        CompletionOptions(length=_TARGET_LENGTH),
        records=max(1, options.task_records // 4),
        examples=_EXAMPLES,
    )


def _require_agreement_corpus(trained: TrainedModel) -> None:
    if list(trained.config.corpus.text) != ["agreement"]:
        raise CharlmError(
            f"{trained.folder}: the run was not trained on the corpus agreement, whose sentences "
            "this section needs"
        )
