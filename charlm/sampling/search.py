"""Searching for the most probable texts of a trained model."""

from collections.abc import Sequence

from charlm.data.tokenizer import EOS
from charlm.sampling.beam_search import BeamOptions, Hypothesis, beam_search
from charlm.sampling.options import SearchOptions
from charlm.sampling.plan import banned_text, in_reading_order, in_text_order, refuse_if_backward
from charlm.sampling.prompts import Prompt, first_token, read_prompt, refuse_unwritable
from charlm.sampling.sample import Sample
from charlm.sampling.text_stream import TextStream
from charlm.trained_model import TrainedModel, require_one_direction


def search(trained: TrainedModel, options: SearchOptions) -> list[Sample]:
    """Return the most probable texts that a beam search finds, the best first.

    Raises:
        UnsupportedOptionError: An option does not suit the model.
        CharlmError: The model reads in both directions, or banned texts leave nothing to write.
    """
    require_one_direction(trained)
    stop = options.stop
    refuse_if_backward(trained, characters=stop.characters is not None, until=bool(stop.until))
    prompt = read_prompt(trained, options.prompt, allow_unknown=options.allow_unknown)
    refuse_unwritable(trained, stop, options.ban, allow_unknown=options.allow_unknown)
    context = in_reading_order(trained, prompt.ids)

    def is_end(ids: list[int]) -> bool:
        if trained.writes_records and ids[-1] == EOS:
            return True
        stops_early = stop.until or stop.characters is not None
        return bool(stops_early) and _stream(trained, options, prompt, ids).ended

    hypotheses = beam_search(
        trained.model,
        context,
        BeamOptions(
            beams=options.beams,
            length=stop.max_tokens,
            length_penalty=options.length_penalty,
            no_repeat_ngram=options.no_repeat_ngram,
        ),
        is_end=is_end,
        constraints=[
            *first_token(trained, prompt),
            *banned_text(trained, options.ban, context, batch=1),
        ],
    )
    return [
        _sample(trained, options, prompt, rank, hypothesis)
        for rank, hypothesis in enumerate(hypotheses[: options.count])
    ]


def _stream(
    trained: TrainedModel, options: SearchOptions, prompt: Prompt, ids: Sequence[int]
) -> TextStream:
    text_stream = TextStream(trained.tokenizer, prompt.ids, options.stop, pending=prompt.pending)
    for token in ids:
        text_stream.feed(token)
    return text_stream


def _sample(
    trained: TrainedModel,
    options: SearchOptions,
    prompt: Prompt,
    rank: int,
    hypothesis: Hypothesis,
) -> Sample:
    ended = trained.writes_records and hypothesis.ids[-1:] == [EOS]
    ids = hypothesis.ids[:-1] if ended else hypothesis.ids
    if trained.is_forward:
        text_stream = _stream(trained, options, prompt, ids)
        text_stream.flush()
        text = text_stream.text
    else:
        text = trained.tokenizer.decode(in_text_order(trained, prompt.ids, ids))
    return Sample(
        number=rank,
        prompt=options.prompt,
        text=text,
        tokens=ids,
        ended=ended,
        log_probabilities=hypothesis.log_probabilities[: len(ids)],
        log_probability=sum(hypothesis.log_probabilities),
    )
