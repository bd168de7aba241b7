"""Sampling: texts that a trained model writes."""

import math
from collections import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import EOS
from charlm.data.written_form import written_form
from charlm.errors import UnsupportedOptionError
from charlm.model_texts import encode, training_texts
from charlm.sampling.beam_search import normalize
from charlm.sampling.constraints.copy_limit import text_to_index
from charlm.sampling.novelty import NoveltyFilter
from charlm.sampling.options import SampleOptions
from charlm.sampling.plan import Plan, in_text_order, make_plan
from charlm.sampling.saved_state import GenerationState
from charlm.sampling.text_stream import TextBatch
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel

_MAX_LOGITS = 2**24  # Logits of a batch, at 8 bytes each: 128 MiB, several times.
_MAX_ROWS = 4096  # Texts of a batch.
_MAX_ATTEMPTS = 50  # Texts generated per novel text that is asked for.


@dataclass(frozen=True)
class Sample(Result):
    """A text that a model wrote.

    Attributes:
        number: Number of the sequence among those of the seed; rank in a beam search.
        prompt: Prompt that the model was given.
        text: Prompt and new text, cut at the stop string or the number of characters, which may be
            within the last token.
        tokens: New ids, in the order in which the model wrote them.
        ended: Whether the model ended the text, with <EOS> in records mode.
        log_probabilities: Log-probability of each token in nats: the model's own, at temperature 1,
            before filters and constraints. Empty if the text was not scored.
        log_probability: Log-probability of all tokens, with the <EOS> that ended the text; None if
            the text was not scored.
        seed: Seed of the random numbers; None in a beam search.
        state: State of the text, if it may be continued later; not part of the JSON.
    """

    number: int
    prompt: str
    text: str
    tokens: list[int] = field(repr=False)
    ended: bool
    log_probabilities: list[float] = field(default_factory=list, repr=False)
    log_probability: float | None = None
    seed: int | None = None
    state: GenerationState | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return all fields but the state, as values that JSON can hold."""
        names = [item.name for item in fields(self) if item.name != "state"]
        return {name: getattr(self, name) for name in names}

    def lines(self) -> Iterator[str]:
        """Yield the text."""
        yield self.text


def sample(trained: TrainedModel, options: SampleOptions) -> list[Sample]:
    """Write texts.

    Raises:
        UnsupportedOptionError: An option does not suit the model or its text, or too few of the
            texts are novel.
        CheckpointError: The saved state cannot be read, or belongs to another model.
        CharlmError: The model reads in both directions, or the constraints leave nothing to write.
    """
    plan = make_plan(trained, options)
    write = _writer(plan)
    novelty = _novelty_filter(trained) if options.constraints.novel else None
    samples: list[Sample] = []
    num_tried = 0
    while len(samples) < options.count:
        _check_attempts(options, num_tried, len(samples))
        first = plan.first_number + num_tried * options.best_of
        candidates = write(range(first, first + options.count * options.best_of))
        num_tried += options.count
        for candidate in _best_of(candidates, options):
            if len(samples) == options.count:
                break
            ids = in_text_order(trained, plan.prompt_ids, candidate.tokens)
            if novelty is None or novelty.is_novel(ids):
                samples.append(candidate)
    return samples


def stream(
    trained: TrainedModel, options: SampleOptions
) -> abc.Generator[str, None, GenerationState]:
    """Write one text; yield the prompt, and then each piece of text when it is complete.

    A model that reads backward writes from the end to the beginning: its text is one piece.

    Returns:
        State of the text, from which it can be continued if `options.state_out` is set.

    Raises:
        CharlmError: As for `sample`.
    """
    plan = make_plan(trained, replace(options, scored=False))
    max_copy = options.constraints.max_copy
    copy_limit = None if max_copy is None else plan.copy_limit(training_index(trained), max_copy)
    texts = plan.begin([plan.first_number], copy_limit)
    (text_stream,) = texts.streams
    if not trained.is_forward:
        yield _finish(plan, texts)[0].text
        return texts.generator.generation_state()
    yield text_stream.new_text()
    while texts.step():
        yield text_stream.new_text()
    if not options.state_out:
        text_stream.flush()
        yield text_stream.new_text()
    return texts.generator.generation_state(len(text_stream.text))


def begin_text(trained: TrainedModel, options: SampleOptions) -> TextBatch:
    """Return one text that has its prompt and is not written yet.

    Raises:
        CharlmError: As for `sample`.
    """
    plan = make_plan(trained, replace(options, scored=False))
    return plan.begin([plan.first_number])


def _writer(plan: Plan) -> Callable[[Sequence[int]], list[Sample]]:
    """Return a function that writes the sequences of some numbers."""
    max_copy = plan.options.constraints.max_copy
    if max_copy is None:
        rows = max(1, min(_MAX_ROWS, _MAX_LOGITS // plan.trained.model.vocabulary_size))
        return lambda numbers: [
            text
            for start in range(0, len(numbers), rows)
            for text in _finish(plan, plan.begin(numbers[start : start + rows]))
        ]
    index = training_index(plan.trained)
    return lambda numbers: [
        sample
        for number in numbers
        for sample in _finish(plan, plan.begin([number], plan.copy_limit(index, max_copy)))
    ]


def _finish(plan: Plan, texts: TextBatch) -> list[Sample]:
    texts.finish()
    scores = texts.generator.log_probabilities
    return [_sample(plan, texts, row, row_scores) for row, row_scores in enumerate(scores)]


def _sample(plan: Plan, texts: TextBatch, row: int, scores: list[float]) -> Sample:
    generator = texts.generator
    ids = generator.tokens[row]
    ended = plan.trained.writes_records and ids[-1:] == [EOS]
    new_ids = ids[:-1] if ended else ids
    text_stream = texts.streams[row]
    state = None
    if plan.options.state_out:
        state = generator.generation_state(len(text_stream.text))
    else:
        text_stream.flush()
    text = text_stream.continuation
    if not plan.trained.is_forward:
        text_ids = in_text_order(plan.trained, plan.prompt_ids, new_ids)
        text = plan.trained.tokenizer.decode(text_ids)
    return Sample(
        number=generator.options.numbers[row],
        prompt=plan.options.prompt,
        text=text,
        tokens=new_ids,
        ended=ended,
        log_probabilities=scores[: len(new_ids)],
        log_probability=math.fsum(scores) if generator.options.scored else None,
        seed=generator.options.seed,
        state=state,
    )


def training_index(trained: TrainedModel) -> SuffixIndex:
    """Return an index of the training text, in the form that `CopyLimit` searches.

    Raises:
        CharlmError: The training text cannot be read any more, or pydivsufsort is not installed.
    """
    train = training_texts(trained)["train"]
    written = written_form(train, trained.tokenizer, records=trained.writes_records)
    return SuffixIndex(text_to_index(written, trained.tokenizer))


def _novelty_filter(trained: TrainedModel) -> NoveltyFilter:
    parts = [encode(trained, text).ids for text in training_texts(trained).values()]
    return NoveltyFilter(parts, trained.tokenizer, records=trained.writes_records)


def _check_attempts(options: SampleOptions, num_tried: int, num_novel: int) -> None:
    is_greedy = options.filters.temperature == 0
    remedy, others = "raise {}, or train for less time", ["temperature"]
    if options.constraints.matching is not None:
        remedy, others = "raise {}, or let more texts match {}", ["temperature", "matching"]
    if num_tried >= options.count * _MAX_ATTEMPTS or (num_tried and is_greedy):
        raise UnsupportedOptionError(
            "novel",
            f"only {num_novel} of {options.count} texts are novel after {num_tried} attempts; "
            + remedy,
            others=others,
        )


def _best_of(candidates: Sequence[Sample], options: SampleOptions) -> Iterator[Sample]:
    """Yield the best of each `best_of` candidates, by normalized log-probability."""
    if options.best_of == 1:
        yield from candidates
        return

    def score(candidate: Sample) -> float:
        length = len(candidate.tokens) + candidate.ended
        total = candidate.log_probability
        return -math.inf if total is None else normalize(total, length, options.ranking_penalty)

    for start in range(0, len(candidates), options.best_of):
        yield max(candidates[start : start + options.best_of], key=score)
