"""A sample at each evaluation of a training, kept in samples.jsonl of the run folder."""

from collections.abc import Iterator
from contextlib import closing

from charlm.data.tokenizer import Ids, Tokenizer
from charlm.data.windows.directions import record_spans
from charlm.errors import DivergenceError
from charlm.model.label_model import LabelModel
from charlm.model.log_probabilities import evaluation_mode
from charlm.model.translation_model import TokenModel
from charlm.runs.experiment import Evaluated, Event, Events, Experiment, Halved, Sampled
from charlm.runs.samples import MAX_SAMPLES, append_sample, truncate_samples
from charlm.sampling.completion import complete_ids
from charlm.sampling.options import CompletionOptions, Filters, SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.trained_model import of_experiment

# Numbers of tokens that make a few hundred characters. Records are short: several are sampled.
_LENGTH = {"char": 400, "byte": 400, "word": 80, "bpe": 130}
_RECORDS = 10
_SEED = 1  # Always the same, so that the samples of a training can be compared.
_TEMPERATURE = 0.8
_MAX_CHARACTERS = 2000
_MAX_IDS = 20_000  # The first records are looked for among this number of ids.


def sampled(experiment: Experiment, events: Events) -> Events:
    """Yield the events of a training, and a sample after each evaluation.

    At the end, also after an error, the training is closed and its folder released.

    Args:
        experiment: Training run of the group's first process.
        events: Its events, from `session.run`.

    Raises:
        CheckpointError: samples.jsonl cannot be written.
    """
    try:
        with closing(events):
            yield from _sampled(experiment, events)
    finally:
        experiment.lock.release()  # A generator that was never started does not release it.


def _sampled(experiment: Experiment, events: Events) -> Iterator[Event]:
    count = truncate_samples(experiment)
    for event in events:
        yield event
        model = experiment.model
        can_write = not isinstance(model, LabelModel) and model.direction != "both"
        if isinstance(event, Evaluated) and can_write:
            sample_event = Sampled(step=event.metrics["step"], text=_sample(experiment))
            if count < MAX_SAMPLES:
                append_sample(experiment, sample_event)
                count += 1
            yield sample_event
        elif isinstance(event, Halved):
            count = truncate_samples(experiment)


def _sample(experiment: Experiment) -> str:
    """Return a few hundred characters from the model, always with the same seed.

    A model whose probabilities are not finite writes nothing: training reports the divergence.
    """
    tokens = experiment.tokens.get("valid", experiment.tokens["train"])
    if tokens.targets is not None and not isinstance(experiment.model, LabelModel):
        return _completions(experiment.model, experiment.tokenizer, tokens.ids, tokens.targets)
    trained = of_experiment(experiment)
    options = SampleOptions(
        stop=StopCondition(length=_LENGTH[experiment.tokenizer.section.level]),
        filters=Filters(temperature=_TEMPERATURE),
        count=_RECORDS if trained.writes_records else 1,
        seed=_SEED,
        scored=False,
    )
    with evaluation_mode(trained.model):
        try:
            samples = sample(trained, options)
        except DivergenceError:
            return ""
    return "\n".join(written.text for written in samples)[:_MAX_CHARACTERS]


def _completions(model: TokenModel, tokenizer: Tokenizer, ids: Ids, targets: Ids) -> str:
    """Return the first sources of a part, each with the target that the model writes."""
    spans = record_spans(ids[:_MAX_IDS])[:_RECORDS].tolist()
    prompts = [ids[start:stop][targets[start:stop] < 0].tolist() for start, stop in spans]
    with evaluation_mode(model):
        written = complete_ids(model, prompts, CompletionOptions(length=_LENGTH["word"]))
    decode = tokenizer.decode
    lines = (decode(prompt) + decode(ids) for prompt, ids in zip(prompts, written, strict=True))
    return "\n".join(lines)[:_MAX_CHARACTERS]
