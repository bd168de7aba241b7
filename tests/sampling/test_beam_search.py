"""Beams find what an exhaustive search finds; texts of unlike length are compared as the paper says."""

import itertools
import math

import pytest
import torch

from charlm.config.schema import Model
from charlm.config.schema import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK, Tokenizer, learn_tokenizer
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.sampling.beam_search import Hypothesis, beam_search, normalized
from charlm.sampling.constraints.banned_text import BannedText
from charlm.sampling.generator import Generator, Settings, generate
from charlm.sampling.text_stream import StopCondition, TextBatch, TextStream

VOCABULARY = 5
LENGTH = 4


def made(seed: int, vocabulary: int = VOCABULARY, sharpness: float = 6) -> LanguageModel:
    torch.manual_seed(seed)
    model = LanguageModel(Model(hidden_size=6, embedding_size=4), vocabulary).eval()
    with torch.no_grad():
        model.projection.weight *= sharpness
    return model


def log_probability(model: LanguageModel, prompt: list[int], ids: tuple[int, ...]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([EOS, *prompt, *ids[:-1]])[:, None])[0][len(prompt) :, 0]
    return float(logits.double().log_softmax(dim=-1)[range(len(ids)), list(ids)].sum())


def every_text(length: int = LENGTH) -> list[tuple[int, ...]]:
    """Return all texts that end with <EOS> or have the greatest length, none with <UNK>."""
    inner = [token for token in range(VOCABULARY) if token not in (EOS, UNK)]
    ended = [(*ids, EOS) for size in range(length) for ids in itertools.product(inner, repeat=size)]
    return ended + list(itertools.product(inner, repeat=length))


def found_by(
    model: LanguageModel, prompt: list[int], beams: int, penalty: float = 0.6, **options
) -> list[Hypothesis]:
    fields = {"length": LENGTH, "is_end": lambda ids: ids[-1] == EOS} | options
    return beam_search(model, prompt, beams=beams, length_penalty=penalty, **fields)


def test_length_normalization_is_the_paper_s():
    assert normalized(-6.0, 7, 1.0) == pytest.approx(-3.0)  # (5 + 7) / 6 = 2.
    assert normalized(-6.0, 7, 0.0) == -6.0
    assert normalized(-6.0, 1, 5.0) == -6.0  # Of one token nothing is divided.
    assert normalized(-8.0, 19, 0.5) == pytest.approx(-4.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_beams_of_full_width_are_an_exhaustive_search(seed, penalty):
    model = made(seed)
    texts = every_text()
    scores = {ids: normalized(log_probability(model, [2], ids), len(ids), penalty) for ids in texts}
    best = sorted(texts, key=lambda ids: -scores[ids])
    found = found_by(model, [2], len(texts), penalty)
    assert [tuple(one.ids) for one in found[:10]] == best[:10]
    assert [one.score(penalty) for one in found[:10]] == pytest.approx(
        [scores[ids] for ids in best[:10]], abs=1e-5
    )


def test_one_beam_is_greedy():
    model = made(3)
    (found,) = found_by(model, [3], 1, length=20, is_end=lambda ids: False)
    greedy = generate(
        model,
        [3],
        numbers=[0],
        length=20,
        settings=Settings(temperature=0),
        seed=1,
        stops_at_eos=False,
    )
    assert found.ids == [token for (token,) in greedy]
    assert not found.ended


def test_more_beams_find_nothing_less_probable_by_hand():
    """A garden path: token 2 is the more probable first, yet 3 4 is the more probable text."""

    def step(ids, states):
        after = {
            EOS: [0.0, 0.0, 0.6, 0.4, 0.0],
            2: [0.0, 0.0, 0.3, 0.3, 0.4],
            3: [0.0, 0.0, 0.05, 0.05, 0.9],
        }
        return torch.tensor([after[int(token)] for token in ids]).log(), states

    options = {"length": 2, "is_end": lambda ids: False, "step": step}
    (greedy,) = found_by(made(1), [], 1, **options)
    assert greedy.ids == [2, 4]
    both = found_by(made(1), [], 2, **options)
    assert [one.ids for one in both] == [[3, 4], [2, 4]]
    assert math.exp(sum(both[0].log_probabilities)) == pytest.approx(0.36)
    assert math.exp(sum(both[1].log_probabilities)) == pytest.approx(0.24)


def test_the_states_follow_their_texts():
    model = made(4)
    for one in found_by(model, [2, 3], 3, length=12):
        assert sum(one.log_probabilities) == pytest.approx(
            log_probability(model, [2, 3], tuple(one.ids)), abs=1e-4
        )


def test_no_beam_repeats_an_ngram():
    for one in found_by(
        made(5, 12), [2, 3, 2], 4, length=15, is_end=lambda ids: False, no_repeat_ngram=2
    ):
        pairs = list(itertools.pairwise([2, 3, 2, *one.ids]))
        assert len(set(pairs)) == len(pairs) == 17


# Bans and texts, with a tokenizer.


LEVELS = [
    Section(level="char"),
    Section(level="byte"),
    Section(level="word"),
    Section(level="bpe", vocabulary_size=270),
    Section(level="word", words="whitespace"),
]


@pytest.fixture(
    scope="module", params=LEVELS, ids=lambda section: f"{section.level} {section.words}"
)
def tokenizer(request) -> Tokenizer:
    return learn_tokenizer(["the cat ate the éclair that the other cat saw\n" * 20], request.param)


def texts_of(
    model, tokenizer, prompt: str, ending: StopCondition, numbers=(0, 1, 2, 3), ban=(), **options
) -> TextBatch:
    ids = tokenizer.encode(prompt).tolist()
    bans = (
        [BannedText(tokenizer, ban, ids, batch=len(numbers), device=torch.device("cpu"))]
        if ban
        else []
    )
    fields = {"settings": Settings(), "seed": 1, "stops_at_eos": False} | options
    writing = Generator(model, ids, numbers=list(numbers), constraints=bans, **fields)
    texts = TextBatch(
        writing, [TextStream(tokenizer, ids, ending) for _ in numbers], ending, stops_at_eos=False
    )
    while texts.advance():
        pass
    return texts


@pytest.mark.parametrize(
    "ban", [["t"], ["th"], ["the", "cat"], ["at"], ["é"], ["e c"], ["\n"], ["hhh", "tt", "at e"]]
)
def test_a_banned_text_is_never_written_however_its_tokens_are_cut(tokenizer, ban):
    model = made(1, tokenizer.vocabulary_size, sharpness=3)
    for telling in texts_of(model, tokenizer, "the ca", StopCondition(length=80), ban=ban).tellings:
        assert not any(text in telling.text[len("the ca") - len(text) + 1 :] for text in ban)


@pytest.mark.parametrize("ban", [["t"], ["cat"], ["é"], ["at e", "he"]])
@pytest.mark.parametrize("before", ["", "c", "the ca", "that"])
def test_exactly_the_tokens_that_would_complete_a_ban_are_forbidden(tokenizer, ban, before):
    ids = tokenizer.encode(before).tolist()
    bans = BannedText(tokenizer, ban, ids, batch=1, device=torch.device("cpu"))
    allowed = (bans.mask(torch.zeros(1, tokenizer.vocabulary_size)) > -math.inf)[0].tolist()

    def times(extra: list[int]) -> int:
        said = b"".join(tokenizer.token_bytes[token] for token in [*ids, *extra])
        if tokenizer.separates_by_space:
            said = b"".join(b" " + tokenizer.token_bytes[token] for token in [*ids, *extra])
        return sum(said.count(text.encode()) for text in ban)

    inside = range(2, tokenizer.vocabulary_size)
    assert [allowed[token] for token in inside] == [times([token]) == times([]) for token in inside]


def test_a_ban_that_began_in_the_prompt_counts():
    tokenizer = learn_tokenizer(["abc" * 40], Section(level="char"))
    bans = BannedText(
        tokenizer, ["abc"], tokenizer.encode("cab").tolist(), batch=2, device=torch.device("cpu")
    )
    a, b, c = tokenizer.encode("abc").tolist()
    allowed = bans.mask(torch.zeros(2, tokenizer.vocabulary_size)) > -math.inf
    assert allowed[:, [a, b, c]].tolist() == [[True, True, False]] * 2
    bans.advance([a, None])
    allowed = bans.mask(torch.zeros(2, tokenizer.vocabulary_size)) > -math.inf
    assert allowed[:, [a, b, c]].tolist() == [[True, True, True], [True, True, False]]
    bans.select([1, 1, 0])
    allowed = bans.mask(torch.zeros(3, tokenizer.vocabulary_size)) > -math.inf
    assert allowed[:, c].tolist() == [False, False, True]


def test_a_model_that_reads_backward_completes_a_ban_at_its_beginning():
    tokenizer = learn_tokenizer(["abc" * 40], Section(level="char"))
    a, b, c = tokenizer.encode("abc").tolist()
    bans = BannedText(
        tokenizer, ["abc"], [c, b], batch=1, device=torch.device("cpu"), backward=True
    )
    assert (bans.mask(torch.zeros(1, 5)) > -math.inf)[0, [a, b, c]].tolist() == [False, True, True]


def test_bans_of_everything_are_one_clear_error():
    tokenizer = learn_tokenizer(["abab"], Section(level="byte"))
    device = torch.device("cpu")
    with pytest.raises(CharlmError, match="--ban: must not be empty"):
        BannedText(tokenizer, ["a", ""], [], batch=1, device=device)
    spaced = learn_tokenizer(["ab aa"], Section(level="word", words="whitespace"))
    with pytest.raises(CharlmError, match="--ban: every token contains 'a' or"):
        BannedText(spaced, ["a", "\n"], [], batch=1, device=device)


def test_beams_heed_bans():
    tokenizer = learn_tokenizer(["abc" * 40], Section(level="char"))
    model = made(2, tokenizer.vocabulary_size)
    free = found_by(model, [], 3, length=10)
    banned = tokenizer.decode(free[0].ids)[1:3]
    bans = BannedText(tokenizer, [banned], [], batch=1, device=torch.device("cpu"))
    for one in found_by(model, [], 3, length=10, constraints=[bans]):
        assert banned not in tokenizer.decode(one.ids)


@pytest.mark.parametrize("characters", [1, 7, 100])
def test_a_text_is_cut_exactly_at_its_characters(tokenizer, characters):
    model = made(1, tokenizer.vocabulary_size, sharpness=3)
    for telling in texts_of(
        model, tokenizer, "the ", StopCondition(characters=characters)
    ).tellings:
        assert len(telling.text) == len(tokenizer.decode(tokenizer.encode("the "))) + characters


@pytest.mark.parametrize("until", [("e",), ("th", "at"), ("cat",), ("t e",)])
def test_a_text_ends_with_the_first_of_its_stop_strings(tokenizer, until):
    model = made(1, tokenizer.vocabulary_size, sharpness=3)
    ended = 0
    for telling in texts_of(
        model, tokenizer, "the ca", StopCondition(length=400, until=until)
    ).tellings:
        written = telling.text[len("the ca") :]
        if telling.ended:
            ended += 1
            assert telling.text.endswith(until)
        assert not any(text in written[:-1] for text in until)
    if until == ("e",):
        assert ended


def test_what_ends_one_text_leaves_the_others_as_they_are(tokenizer):
    model = made(1, tokenizer.vocabulary_size, sharpness=3)
    ending = StopCondition(length=60, until=("e",))
    together = texts_of(model, tokenizer, "", ending)
    for number, telling in enumerate(together.tellings):
        (alone,) = texts_of(model, tokenizer, "", ending, numbers=[number]).tellings
        assert alone.text == telling.text


@pytest.mark.parametrize("first", [1, 2, 3, 10, 37])
def test_chapters_have_the_text_told_at_once_whatever_a_token_is(tokenizer, first):
    model = made(1, tokenizer.vocabulary_size, sharpness=3)
    (whole,) = texts_of(model, tokenizer, "the éc", StopCondition(length=80), numbers=[0]).tellings
    begun = texts_of(model, tokenizer, "the éc", StopCondition(length=first), numbers=[0])
    text = begun.tellings[0].text
    place = begun.writing.place(told=len(text))
    ending = StopCondition(length=80 - first)
    writing = Generator(
        model, [], numbers=[0], settings=Settings(), seed=1, stops_at_eos=False, place=place
    )
    rest = TextStream(tokenizer, [], ending, before=place.ids, told=place.told)
    texts = TextBatch(writing, [rest], ending, stops_at_eos=False)
    while texts.advance():
        pass
    whole.flush()
    rest.flush()
    assert text + rest.chapter == whole.text


def test_characters_that_a_token_had_left_over_begin_the_next_chapter():
    tokenizer = learn_tokenizer(["cat dog owl " * 30], Section(level="word"))
    cat, dog = tokenizer.encode("cat dog").tolist()
    first = TextStream(tokenizer, [], StopCondition(characters=5))
    first.feed(cat)
    first.feed(dog)
    assert first.text == "cat d" and first.ended
    second = TextStream(tokenizer, [], StopCondition(characters=4), before=[cat, dog], told=5)
    assert second.new() == "og"
    second.feed(dog)
    assert second.new() == " d" and second.chapter == "og d" and second.ended
