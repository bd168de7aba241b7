"""Jobs of one run are decoded together, and each text is the one that it would be alone."""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TEXT, small_config, train_all

from charlm import trained_model
from charlm.data.tokenizer import EOS
from charlm.errors import BusyError, CharlmError, OptionError, UnsupportedOptionError
from charlm.evaluation.static_model import of_trained
from charlm.sampling import threads as threads_module
from charlm.sampling.options import SampleOptions, build_options
from charlm.sampling.sample import sample
from charlm.sampling.stepper import Stepper
from charlm.serving import engine as engine_module
from charlm.serving import rows as rows_module
from charlm.serving.engine import Engine, Limits
from charlm.serving.jobs import Generation, Job, Piece
from charlm.serving.rows import Row
from charlm.serving.states import MAX_STATES, StateStore
from charlm.trained_model import TrainedModel

# Settings of requests that are decoded beside each other.
MIXTURE = (
    {"temperature": 1.0},
    {"temperature": 0},
    {"temperature": 0.7, "top_k": 5, "prompt": "The cat "},
    {"top_p": 0.9, "min_p": 0.01, "prompt": "The old "},
    {"typical": 0.9, "epsilon": 1e-3, "eta": 1e-3},
    {"no_repeat_ngram": 4, "prompt": "The "},
    {"repetition_penalty": 1.3, "repetition_window": 8},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "prompt": "The dog"},
    {"logit_bias": {5: 3.0, 6: -100}},
    {"ban": ("cat", "o"), "prompt": "The "},
    {"matching": "(The|A) [a-z]{3,9}[.]"},
    {"max_copy": 6, "prompt": "The "},
    {"until": ("at", "o"), "length": 200},
    {"characters": 33},
)


@pytest.fixture(scope="module")
def model(trained) -> TrainedModel:
    return trained_model.load(trained, "best", "cpu")


@pytest.fixture(scope="module")
def shared_engine(model) -> Iterator[Engine]:
    engine = Engine(model)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def other_levels(tmp_path_factory) -> dict[str, TrainedModel]:
    """Return a model of bytes, of words and of subwords, of a text with accents."""
    folder = tmp_path_factory.mktemp("levels")
    text = folder / "text.txt"
    text.write_text(TEXT.replace("cat", "été").replace("dog", "garçon"), encoding="utf-8")
    levels = {
        "byte": ["tokenizer.level=byte"],
        "word": ["tokenizer.level=word"],
        "bpe": ["tokenizer.level=bpe", "tokenizer.vocabulary_size=280"],
        "words between spaces": ["tokenizer.level=word", "tokenizer.words=whitespace"],
    }
    for name, overrides in levels.items():
        train_all(small_config(text, "training.steps=40", *overrides), folder / name)
    return {name: trained_model.load(folder / name, "best", "cpu") for name in levels}


def options(**given: object) -> SampleOptions:
    return build_options(SampleOptions, {"length": 40} | given)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def collect(generation: Generation) -> list[Piece]:
    return [piece async for piece in generation]


def written(engine: Engine, job: Job) -> Piece:
    """Return the text of a job as one piece."""
    (piece,) = engine.submit(replace(job, streams=False))
    return piece


# The text of a seed


def test_a_text_is_that_of_charlm_sample_whatever_its_options_are(shared_engine, model):
    for given in MIXTURE:
        for number, expected in enumerate(sample(model, options(**given, count=2))):
            piece = written(shared_engine, Job(options(**given), number=number, echo=True))
            assert piece.text == expected.text, given
            assert piece.finish_reason in ("stop", "length")


def test_a_text_is_the_same_alone_among_fifty_others_and_streamed(shared_engine):
    jobs = [Job(options(**MIXTURE[k % len(MIXTURE)], seed=k), number=k % 3) for k in range(50)]
    alone = [written(shared_engine, job) for job in jobs]
    together = [
        shared_engine.submit(replace(job, streams=k % 2 == 0)) for k, job in enumerate(jobs)
    ]
    for generation, expected, job in zip(together, alone, jobs, strict=True):
        pieces = list(generation)
        assert text_of(pieces) == expected.text, job
        assert sum((piece.ids for piece in pieces), ()) == expected.ids
        assert pieces[-1].finish_reason == expected.finish_reason


def test_large_steps_have_all_threads_small_ones_have_one_and_the_text_is_the_same(
    model, monkeypatch
):
    used: list[tuple[int, int]] = []

    class Recorded(Stepper):
        def __call__(self, ids, states):
            used.append((len(ids), torch.get_num_threads()))
            return super().__call__(ids, states)

    weights = sum(tensor.numel() for tensor in model.model.parameters())
    monkeypatch.setattr(engine_module, "Stepper", Recorded)
    monkeypatch.setattr(threads_module, "_MIN_PARALLEL", 3 * weights)
    torch.set_num_threads(2)
    try:
        engine = Engine(model)
        jobs = [Job(options(seed=seed, length=60)) for seed in range(5)]
        alone = [written(engine, job).text for job in jobs]
        together = [engine.submit(job) for job in jobs]
        assert [text_of(list(generation)) for generation in together] == alone
        engine.close()
    finally:
        torch.set_num_threads(1)
    assert all((threads == 2) == (rows >= 3) for rows, threads in used)
    assert {rows for rows, _ in used} >= {1, 5}


def test_a_text_is_the_same_in_an_event_loop_where_its_pieces_arrive_in_parts(shared_engine):
    job = Job(options(length=3000))
    expected = written(shared_engine, job)

    async def both() -> list[list[Piece]]:
        return await asyncio.gather(*(collect(shared_engine.submit(job)) for _ in range(2)))

    for pieces in asyncio.run(both()):
        assert text_of(pieces) == expected.text
        assert len(pieces) > 1
        assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)


def test_models_of_bytes_words_and_subwords_write_the_texts_of_charlm_sample(other_levels):
    for level, model in other_levels.items():
        engine = Engine(model)
        for given in ({"prompt": "The été"}, {"prompt": "The "}, {"until": ("ç", "t s")}, {}):
            (expected,) = sample(model, options(**given))
            job = Job(options(**given), echo=True)
            assert written(engine, job).text == expected.text, (level, given)
            assert text_of(list(engine.submit(job))) == expected.text, (level, given)
        engine.close()


def test_records_end_with_eos_which_is_a_token_without_text(trained_records):
    model = trained_model.load(trained_records, "best", "cpu")
    engine = Engine(model)
    for number, expected in enumerate(sample(model, options(count=5))):
        piece = written(engine, Job(options(), number=number, num_logprobs=0))
        assert piece.text == expected.text and expected.ended
        assert piece.ids == (*expected.tokens, EOS)
        assert piece.finish_reason == "stop"
        assert sum(piece.log_probabilities) == pytest.approx(expected.log_probability)
        assert piece.alternatives == ()
    engine.close()


def test_a_long_prompt_is_read_in_windows_while_others_are_written(shared_engine, monkeypatch):
    monkeypatch.setattr(rows_module, "_WINDOW", 7)
    long, short = Job(options(prompt=TEXT[:600])), Job(options(length=300))
    expected = [written(shared_engine, job).text for job in (long, short)]
    both = [shared_engine.submit(job) for job in (long, short)]
    assert [text_of(list(generation)) for generation in both] == expected
    assert expected[0] == sample(shared_engine.trained, long.options)[0].text[600:]


# Stop conditions


def test_a_stop_string_may_be_left_out_even_if_it_lies_across_tokens(shared_engine):
    whole = written(shared_engine, Job(options(length=400, seed=3)))
    stop = whole.text[37:42]
    end = whole.text.index(stop)
    for includes, expected in ((True, whole.text[: end + 5]), (False, whole.text[:end])):
        chosen = options(
            length=400, seed=3, until=(stop, "§"), includes_until=includes, allow_unknown=True
        )
        for streams in (False, True):
            pieces = list(shared_engine.submit(Job(chosen, streams=streams)))
            assert text_of(pieces) == expected, (includes, streams)
            assert pieces[-1].finish_reason == "stop"


def test_no_beginning_of_an_excluded_stop_string_is_shown_before_it_is_refuted(
    shared_engine, monkeypatch
):
    monkeypatch.setattr(engine_module, "_PIECE_SECONDS", 0.0)
    whole = written(shared_engine, Job(options(length=60, seed=3))).text
    stop = whole[20:23] + "§§"
    chosen = options(length=60, seed=3, until=(stop,), includes_until=False, allow_unknown=True)
    shown = ""
    for piece in shared_engine.submit(Job(chosen)):
        shown += piece.text
        assert piece.finish_reason or not shown.endswith((stop[:1], stop[:2], stop[:3]))
    assert shown == whole


def test_the_reason_of_the_end_is_told(shared_engine):
    for given, reason in (
        ({"length": 5}, "length"),
        ({"characters": 5}, "length"),
        ({"until": ("e",), "length": 300}, "stop"),
        ({"matching": "(The|A) [a-z]{3}"}, "stop"),
    ):
        assert written(shared_engine, Job(options(**given))).finish_reason == reason, given


# Log-probabilities


def test_echoed_log_probabilities_are_those_of_scoring(shared_engine, model):
    ids = model.tokenizer.encode(TEXT[:700])
    expected = of_trained(model).log_probabilities(ids)
    for prompt_ids, first in (((EOS, *ids.tolist()), 1), (tuple(ids.tolist()), 0)):
        job = Job(options(length=1), prompt_ids=prompt_ids, num_logprobs=3, echo=True)
        piece = written(shared_engine, job)
        assert piece.log_probabilities[:first] == (None,) * first
        assert np.allclose(piece.log_probabilities[first:-1], expected, atol=2e-6)
        assert len(piece.ids) == len(prompt_ids) + 1
        assert piece.text[:700] == TEXT[:700]
        assert piece.offsets[first:] == tuple(range(701))
    with torch.inference_mode():
        inputs = torch.tensor([EOS, *ids[:699].tolist()])[:, None]
        best = model.model(inputs)[0][:, 0].log_softmax(dim=-1).topk(3)
    for position, by_id in enumerate(piece.alternatives[:700]):
        assert by_id[piece.ids[position]] == piece.log_probabilities[position]
        assert list(by_id)[:3] == best.indices[position].tolist()
        assert list(by_id.values())[:3] == pytest.approx(best.values[position].tolist(), abs=2e-6)


def test_a_greedy_token_is_exactly_the_most_probable_alternative(shared_engine):
    piece = written(shared_engine, Job(options(temperature=0, length=100), num_logprobs=1))
    for token, value, by_id in zip(
        piece.ids, piece.log_probabilities, piece.alternatives, strict=True
    ):
        assert by_id == {token: value}


def test_log_probabilities_are_the_model_s_own_and_the_same_in_any_company(shared_engine, model):
    job = Job(options(prompt="The ", top_k=3, temperature=0.5), num_logprobs=0)
    alone = written(shared_engine, job)
    (expected,) = sample(model, job.options)
    assert alone.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-6)
    together = [
        shared_engine.submit(replace(job, num_logprobs=k % 4 if k else 0, streams=False))
        for k in range(8)
    ]
    for generation in together:
        (piece,) = generation
        assert piece.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-6)


def test_a_prompt_can_be_scored_without_new_text(shared_engine):
    job = Job(options(prompt="The cat"), num_logprobs=2, echo=True, writes=False)
    piece = written(shared_engine, job)
    assert piece.text == "The cat" and len(piece.ids) == 7
    assert piece.finish_reason == "length"
    assert written(shared_engine, replace(job, echo=False)).ids == ()


def test_offsets_count_the_characters_of_the_text_at_every_level(other_levels):
    for level, model in other_levels.items():
        engine = Engine(model)
        for echo in (False, True):
            job = Job(options(prompt="The garçon "), num_logprobs=0, echo=echo)
            pieces = list(engine.submit(job))
            text, offsets = text_of(pieces), sum((piece.offsets for piece in pieces), ())
            assert offsets[0] == 0, level
            assert list(offsets) == sorted(offsets) and offsets[-1] <= len(text), level
            if level == "word":
                words = [text[a:b] for a, b in zip(offsets, (*offsets[1:], None), strict=True)]
                assert "".join(words) == text
                assert not any(" " in word[1:] for word in words), words
        engine.close()


# States


def test_a_text_continues_from_its_state_as_if_it_had_never_stopped(shared_engine, monkeypatch):
    monkeypatch.setattr(rows_module, "_MAX_HISTORY", 16)
    whole = written(shared_engine, Job(options(prompt="The ", length=90), echo=True))
    text, state = "", None
    for length in (20, 30, 40):
        first = {"prompt": "The "} if state is None else {"state_in": state}
        piece = written(
            shared_engine, Job(options(**first, length=length), echo=True, keeps_state=True)
        )
        text, state = text + piece.text, piece.state
        assert len(state.ids) == 16
    assert text == whole.text


def test_a_state_continues_at_every_level(other_levels, monkeypatch):
    monkeypatch.setattr(rows_module, "_MAX_HISTORY", 5)
    for level, model in other_levels.items():
        engine = Engine(model)
        whole = written(engine, Job(options(length=400, characters=42), echo=True)).text
        for part in ({"length": 3}, {"characters": 3}):  # These end within words.
            text, given = "", {}
            for _ in range(14):
                piece = written(engine, Job(options(**given | part), keeps_state=True))
                text, given = text + piece.text, {"state_in": piece.state}
            size = min(len(text), 42)
            assert text[:size] == whole[:size], (level, part)
        engine.close()


def test_a_store_forgets_the_state_that_was_unused_for_longest(shared_engine):
    state = written(shared_engine, Job(options(), keeps_state=True)).state
    now = 0.0
    store = StateStore(clock=lambda: now)
    first, second = store.put(state), store.put(state)
    assert store.get(first) is state and first != second and len(first) > 30
    third, *_ = [store.put(state) for _ in range(MAX_STATES - 1)]
    with pytest.raises(UnsupportedOptionError, match="unknown or has expired"):
        store.get(second)
    now = 3599.0
    store.get(third)
    now = 3602.0
    assert store.get(third) is state and len(store) == 1
    with pytest.raises(UnsupportedOptionError):
        store.get(first)


# Cancelling, limits, errors


def test_cancelled_jobs_end_and_change_no_other_text(shared_engine):
    jobs = [Job(options(length=600, seed=k)) for k in range(12)]
    expected = [written(shared_engine, job).text for job in jobs[::2]]
    generations = [shared_engine.submit(job) for job in jobs]
    for k, generation in enumerate(generations[1::2]):
        if k % 2:
            next(generation)
        generation.cancel()
        assert list(generation) == []
    assert [text_of(list(generation)) for generation in generations[::2]] == expected


def test_cancelling_ends_the_wait_of_a_task(shared_engine):
    async def cancel_soon() -> list[Piece]:
        generation = shared_engine.submit(Job(options(length=50_000), streams=False))
        waiting = asyncio.create_task(collect(generation))
        await asyncio.sleep(0.05)
        generation.cancel()
        return await waiting

    assert asyncio.run(cancel_soon()) == []


def test_a_full_queue_is_busy_and_free_again_after_a_cancel(model):
    engine = Engine(model, Limits(max_rows=1, max_queued=2))
    long = Job(options(length=50_000))
    running = engine.submit(long)
    next(running)
    waiting = [engine.submit(long) for _ in range(2)]
    assert (engine.num_running, engine.num_queued) == (1, 2)
    with pytest.raises(BusyError, match=r"^the server is busy, with 2 texts waiting"):
        engine.submit(long)
    waiting[0].cancel()
    short = engine.submit(Job(options(length=5)))
    running.cancel()
    waiting[1].cancel()
    assert len(text_of(list(short))) == 5
    engine.close()


def test_without_a_queue_a_free_row_is_still_used(model):
    engine = Engine(model, Limits(max_rows=2, max_queued=0))
    running = [engine.submit(Job(options(length=50_000))) for _ in range(2)]
    with pytest.raises(BusyError):
        engine.submit(Job(options()))
    running[0].cancel()
    next(running[1])
    while engine.num_running > 1:  # The row is free at the next step.
        next(running[1])
    assert written(engine, Job(options(length=5))).finish_reason == "length"
    engine.close()


def test_a_text_that_is_too_long_or_does_not_suit_the_model_is_refused(model):
    engine = Engine(model, Limits(max_length=50))
    for job, message in (
        (Job(options(length=51)), "^length: must be at most 50 tokens after this prompt, got 51"),
        (Job(options(prompt="The " * 20)), "^prompt: must have at most 50 tokens, but has 80"),
        (Job(options(), prompt_ids=(3, 9999)), "^prompt: ids must be below .*, got 9999"),
        (Job(options(prompt="§")), "^prompt: use only characters of the training text"),
        (Job(options(logit_bias={9999: 1})), "^logit_bias: must name ids below"),
    ):
        with pytest.raises(OptionError, match=message):
            engine.submit(job)
    engine.close()


def test_a_job_is_one_sequence(model):
    for given, message in (
        ({"options": options(count=2)}, "a job is one sequence"),
        ({"options": options(), "num_logprobs": 1000}, "^logprobs: must be between 0 and 100"),
        (
            {"options": options(max_copy=3), "keeps_state": True},
            "^max_copy: cannot be combined with",
        ),
    ):
        with pytest.raises(OptionError, match=message):
            Job(**given)


def test_models_that_read_from_the_end_are_refused(text_file, tmp_path):
    for direction in ("backward", "both"):
        folder = tmp_path / direction
        train_all(small_config(text_file, f"model.direction={direction}"), folder)
        engine = Engine(trained_model.load(folder, "best", "cpu"))
        with pytest.raises(UnsupportedOptionError, match=f"has direction {direction}") as error:
            engine.submit(Job(options()))
        assert str(tmp_path) not in str(error.value)  # It is not the client's business.
        engine.close()


def test_a_row_without_a_possible_token_fails_alone(shared_engine):
    letters = sorted(set(TEXT))
    dead_end = Job(options(ban=(*letters[1:], 3 * letters[0]), length=5))
    other = Job(options(length=200))
    expected = written(shared_engine, other).text
    generations = [shared_engine.submit(job) for job in (other, dead_end)]
    assert text_of(list(generations[0])) == expected
    with pytest.raises(CharlmError, match=r"after 2 tokens the banned texts .* leave no token"):
        list(generations[1])


def test_closing_ends_all_jobs_with_an_error(model):
    engine = Engine(model, Limits(max_rows=1))
    running, waiting = (engine.submit(Job(options(length=50_000))) for _ in range(2))
    next(running)
    engine.close()
    for generation in (running, waiting):
        with pytest.raises(CharlmError, match="shutting down"):
            list(generation)
    with pytest.raises(CharlmError, match="shutting down"):
        engine.submit(Job(options()))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_ends_all_jobs_instead_of_letting_them_wait(model, monkeypatch):
    engine = Engine(model)
    raised: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda found: raised.append(found.exc_type))

    def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(engine, "_step", fail)
    with pytest.raises(CharlmError, match="the server failed"):
        list(engine.submit(Job(options())))
    with pytest.raises(CharlmError, match="shutting down"):
        engine.submit(Job(options()))
    engine.close()
    assert raised == [ZeroDivisionError]


def test_threads_submit_at_the_same_time(shared_engine):
    expected = {seed: written(shared_engine, Job(options(seed=seed))).text for seed in range(16)}
    found: dict[int, str] = {}

    def client(seed: int) -> None:
        found[seed] = text_of(list(shared_engine.submit(Job(options(seed=seed)))))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_nothing_is_kept_after_a_request(shared_engine):
    def count() -> tuple[int, int]:
        gc.collect()
        objects = gc.get_objects()
        tensors = sum(type(item) is torch.Tensor for item in objects)
        return tensors, sum(type(item) in (Generation, Piece, Row) for item in objects)

    def settled() -> tuple[int, int]:
        """The thread of the engine drops a job after it has delivered the last piece."""
        found = [count(), count()]
        while found[-1] != found[-2]:
            time.sleep(0.05)
            found.append(count())
        return found[-1]

    def serve(requests: int) -> None:
        for k in range(requests):
            given = {"length": 12} | MIXTURE[k % len(MIXTURE)]
            job = Job(options(**given, seed=k), num_logprobs=k % 3)
            list(shared_engine.submit(job))
            shared_engine.submit(replace(job, streams=False)).cancel()

    serve(14)
    written(shared_engine, Job(options(length=2)))
    time.sleep(0.1)
    before = settled()
    serve(42)
    written(shared_engine, Job(options(length=2)))
    time.sleep(0.1)
    assert settled() == before
