"""Kneser-Ney by hand, against the plain equations, and the laws of any distribution."""

import tracemalloc
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.tokenizer import EOS
from charlm.errors import ConfigError
from charlm.evaluation.adaptive.ngram import KneserNey

A, B, C = 2, 3, 4
TEXT = [A, B, A, C, A, B]  # After <EOS>; of five ids.
Gram = tuple[int, ...]


def ids_of(ids: list[int]) -> np.ndarray:
    return np.array(ids, dtype=np.uint8)


def probabilities(model: KneserNey, ids: list[int]) -> list[float]:
    return np.exp(model.log_probabilities(ids_of(ids))).tolist()


def last_probability(model: KneserNey, ids: list[int]) -> float:
    return probabilities(model, ids)[-1]


class Reference:
    """The equations in fractions and dictionaries, one token at a time."""

    def __init__(self, ids: list[int], order: int, vocabulary: int, *, records: bool):
        self.order, self.vocabulary, self.records = order, vocabulary, records
        occurrences: Counter[Gram] = Counter()
        neighbours: dict[Gram, set[int]] = {}
        beginnings: Counter[Gram] = Counter()
        for text in self.texts(ids):
            for end in range(1, len(text)):
                for begin in range(max(end - order + 1, 0), end + 1):
                    gram = tuple(text[begin : end + 1])
                    occurrences[gram] += 1
                    if begin == 0:
                        beginnings[gram] += 1
                    else:
                        neighbours.setdefault(gram, set()).add(text[begin - 1])
        self.counts = {
            gram: count if len(gram) == order else len(neighbours.get(gram, ())) + beginnings[gram]
            for gram, count in occurrences.items()
        }
        self.discounts = [self.estimate(length) for length in range(1, order + 1)]

    def texts(self, ids: list[int]) -> list[list[int]]:
        """Return the text after its <EOS>, or each record after one."""
        if not self.records:
            return [[EOS, *ids]]
        texts = [[EOS]]
        for token in ids:
            texts[-1].append(token)
            if token == EOS:
                texts.append([EOS])
        return texts

    def estimate(self, length: int) -> list[Fraction]:
        n = Counter(count for gram, count in self.counts.items() if len(gram) == length)
        if n[1] == 0 or n[2] == 0:
            return [Fraction(3, 4)] * 3
        y = Fraction(n[1], n[1] + 2 * n[2])
        if n[3] == 0 or n[4] == 0:
            return [y] * 3
        three = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
        return three if min(three) > 0 else [y] * 3

    def probability(self, context: Gram, token: int) -> Fraction:
        shorter = self.probability(context[1:], token) if context else Fraction(1, self.vocabulary)
        following = {gram: n for gram, n in self.counts.items() if gram[:-1] == context}
        if not following:
            return shorter
        discounts = self.discounts[len(context)]
        removed = {gram: discounts[min(count, 3) - 1] for gram, count in following.items()}
        total = sum(following.values())
        gram = (*context, token)
        return (
            following.get(gram, 0) - removed.get(gram, 0) + sum(removed.values()) * shorter
        ) / total

    def probabilities(self, ids: list[int]) -> list[Fraction]:
        return [
            self.probability(tuple(text[max(end - self.order + 1, 0) : end]), text[end])
            for text in self.texts(ids)
            for end in range(1, len(text))
        ]


def test_bigrams_by_hand():
    model = KneserNey(ids_of(TEXT), 2, 5)
    # Bigrams: <EOS>a 1, ab 2, ba 1, ac 1, ca 1. Four were seen once, one twice: D = 4 / (4 + 2).
    # Before a stand <EOS>, b and c; before b and c only a: 3, 1, 1 of 5. None was counted twice: D = 3/4.
    assert model.discounts == [(0.75, 0.75, 0.75), pytest.approx((2 / 3, 2 / 3, 2 / 3))]
    left = Fraction(3, 4) * 3 / 5  # Of unigrams, for the uniform distribution.
    a, b = Fraction(9, 4) / 5 + left / 5, Fraction(1, 4) / 5 + left / 5
    assert (a, b) == (
        Fraction(54, 100),
        Fraction(14, 100),
    )  # c as b; 0.09 each for <EOS> and <UNK>: 1 in all.
    # After a: b twice and c once, two kinds.
    b_after_a = (2 - Fraction(2, 3)) / 3 + Fraction(2, 3) * 2 / 3 * b
    unknown_after_a = Fraction(2, 3) * 2 / 3 * Fraction(9, 100)
    a_after_begin = (1 - Fraction(2, 3)) + Fraction(2, 3) * a
    assert probabilities(model, [A, B]) == pytest.approx(
        [float(a_after_begin), float(b_after_a)], rel=1e-12
    )
    assert last_probability(model, [A, 1]) == pytest.approx(float(unknown_after_a), rel=1e-12)
    # <UNK> was never seen, so what follows it is predicted from no context.
    assert last_probability(model, [1, B]) == pytest.approx(float(b), rel=1e-12)


def test_trigrams_by_hand():
    model = KneserNey(ids_of(TEXT), 3, 5)
    # Bigrams: four were counted once, one twice: D = 4 / (4 + 2). No unigram or trigram was counted twice: D = 3/4.
    uni, bi, tri = Fraction(3, 4), Fraction(2, 3), Fraction(3, 4)
    assert np.array(model.discounts)[:, 0] == pytest.approx([float(d) for d in (uni, bi, tri)])
    # Unigrams as above: a 3, b 1, c 1 of 5.
    a = (3 - uni) / 5 + uni * 3 / 5 / 5
    b = (1 - uni) / 5 + uni * 3 / 5 / 5
    # Bigrams by the kinds of token before them: ab after <EOS> and c: 2; ba, ac, ca after one: 1; <EOS>a begins the
    # text, which counts once.
    a_begins = (1 - bi) + bi * a
    b_after_a = (2 - bi) / 3 + bi * 2 / 3 * b
    # Trigrams by how often they occur: <EOS>ab once, and nothing else after <EOS>a; so is cab.
    b_after_begin_a = (1 - tri) + tri * b_after_a
    # ab goes on with a alone, once: its second occurrence ends the text.
    a_after_b = (1 - bi) + bi * a
    a_after_ab = (1 - tri) + tri * a_after_b
    expected = [a_begins, b_after_begin_a, a_after_ab]
    assert probabilities(model, [A, B, A]) == pytest.approx([float(p) for p in expected], rel=1e-12)
    # The context ba goes on with c alone, so that b after it has what was left, as bigrams say; bb was never seen.
    assert last_probability(model, [A, B, A, B]) == pytest.approx(float(tri * b_after_a), rel=1e-12)
    assert last_probability(model, [B, B, A]) == pytest.approx(float(a_after_b), rel=1e-12)


def test_three_discounts_by_hand():
    # Unigrams counted 1, 1, 1, 1, 2, 2, 3, 4 times: n1 = 4, n2 = 2, n3 = n4 = 1, Y = 4 / (4 + 2 * 2) = 1/2.
    text = [2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 8, 9, 9, 9, 9]
    model = KneserNey(ids_of(text), 1, 10)
    discounts = [1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3 - 4 * 0.5 * 1 / 1]
    assert discounts == [0.5, 1.25, 1]
    assert model.discounts == [tuple(discounts)]
    left = (4 * 0.5 + 2 * 1.25 + 2 * 1) / 15
    expected = [
        (1 - 0.5) / 15 + left / 10,
        (2 - 1.25) / 15 + left / 10,
        (4 - 1) / 15 + left / 10,
        left / 10,
    ]
    assert probabilities(model, [2, 6, 9, 1]) == pytest.approx(expected, rel=1e-12)


def test_with_few_counts_all_discounts_are_equal():
    for text, discount in [
        ([2, 2, 3, 3], 0.75),  # None once.
        ([2, 3, 4], 0.75),  # None twice.
        ([2, 3, 4, 4], 0.5),  # None three times: 2 / (2 + 2 * 1).
        ([2, 3, 4, 4, 5, 5, 5], 0.5),  # None four times.
        # 1, 1, 2, 3, 3, 3, 4 times: D2 would be 2 - 3 * 0.5 * 3 / 1, below zero.
        ([2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8, 8], 0.5),
    ]:
        assert KneserNey(ids_of(text), 1, 9).discounts == [(discount, discount, discount)], text


def test_the_first_token_of_a_record_is_predicted_from_its_count_at_beginnings():
    # Records "ab", "ab", "ba": after <EOS>, a twice and b once, though only one thing, nothing, stands before them.
    text = [A, B, EOS, A, B, EOS, B, A, EOS]
    model = KneserNey(ids_of(text), 3, 4, records=True)
    # a stands after <EOS> and b, b so too, <EOS> after b and a: 2 each of 6.
    # No unigram was counted once: D = 3/4. Five bigrams were counted once, one twice: D = 5 / (5 + 2).
    a = (2 - 3 / 4) / 6 + 3 / 4 * 3 / 6 / 4
    expected = (2 - 5 / 7) / 3 + 5 / 7 * 2 / 3 * a
    first, _, _, fourth, *_ = probabilities(model, text)
    assert first == fourth == pytest.approx(expected, rel=1e-12)


ids_lists = st.lists(st.sampled_from([0, 1, 2, 2, 2, 3, 3, 4]), max_size=60)


@given(
    train=ids_lists,
    ids=ids_lists,
    order=st.integers(1, 5),
    records=st.booleans(),
)
def test_the_model_follows_the_equations(train, ids, order, records):
    model = KneserNey(ids_of(train), order, 6, records=records)
    reference = Reference(train, order, 6, records=records)
    np.testing.assert_allclose(
        model.discounts, np.array(reference.discounts, dtype=np.float64), rtol=1e-12
    )
    assert probabilities(model, ids) == pytest.approx(
        [float(p) for p in reference.probabilities(ids)], rel=1e-9
    )


def test_the_model_follows_the_equations_with_three_estimated_discounts():
    train, ids = (
        np.random.default_rng(seed).zipf(1.3, 1000).clip(max=60).tolist() for seed in (1, 2)
    )
    model = KneserNey(ids_of(train), 3, 64)
    reference = Reference(train, 3, 64, records=False)
    assert all(len(set(discounts)) == 3 for discounts in model.discounts)
    np.testing.assert_allclose(
        model.discounts, np.array(reference.discounts, dtype=np.float64), rtol=1e-12
    )
    assert probabilities(model, ids[:150]) == pytest.approx(
        [float(p) for p in reference.probabilities(ids[:150])], rel=1e-9
    )


@given(
    train=ids_lists,
    context=ids_lists,
    order=st.integers(1, 5),
    records=st.booleans(),
)
def test_the_probabilities_after_any_context_sum_to_one(train, context, order, records):
    model = KneserNey(ids_of(train), order, 6, records=records)
    after = [last_probability(model, [*context, token]) for token in range(6)]
    assert sum(after) == pytest.approx(1, rel=1e-12)
    assert min(after) > 0


@given(first=ids_lists, second=ids_lists, train=ids_lists)
def test_a_record_is_independent_of_the_record_before_it(first, second, train):
    model = KneserNey(ids_of(train), 4, 5, records=True)
    together = model.log_probabilities(ids_of([*first, EOS, *second]))
    apart = [model.log_probabilities(ids_of(part)) for part in ([*first, EOS], second)]
    np.testing.assert_array_equal(together, np.concatenate(apart))


def test_contexts_of_a_stream_cross_the_end_of_a_document():
    text = [A, B, EOS, C, A, EOS] * 5
    stream, records = (KneserNey(ids_of(text), 3, 5, records=records) for records in (False, True))
    # After "b <EOS>" comes c, after "a <EOS>" a; a record knows only that it begins.
    assert probabilities(stream, text)[3] > probabilities(records, text)[3] + 0.2


def test_later_tokens_change_no_earlier_probability():
    model = KneserNey(ids_of(TEXT * 4), 5, 5)
    before, after = (model.log_probabilities(ids_of([*TEXT, last, A])) for last in (A, B))
    np.testing.assert_array_equal(before[: len(TEXT)], after[: len(TEXT)])
    assert before[len(TEXT)] != after[len(TEXT)]


def test_an_empty_training_text_gives_the_uniform_distribution():
    assert probabilities(KneserNey(ids_of([]), 3, 8), [1, 7]) == pytest.approx([1 / 8, 1 / 8])
    assert KneserNey(ids_of(TEXT), 3, 8).log_probabilities(ids_of([])).shape == (0,)


def test_every_integer_type_of_ids_gives_the_same_probabilities():
    expected = KneserNey(ids_of(TEXT), 3, 100_000).log_probabilities(ids_of(TEXT))
    for dtype in (np.uint8, np.uint16, np.uint32, np.int64):
        ids = np.array(TEXT, dtype=dtype)
        log_p = KneserNey(ids, 3, 100_000).log_probabilities(ids)
        np.testing.assert_array_equal(log_p, expected, err_msg=str(dtype))


def test_an_order_below_one_is_refused():
    with pytest.raises(ConfigError, match=r"^n-gram model: order must be at least 1, got 0$"):
        KneserNey(ids_of(TEXT), 0, 5)


def test_memory_is_a_few_tens_of_bytes_per_token_and_length():
    ids = np.random.default_rng(1).zipf(1.2, 200_000).clip(max=9999).astype(np.uint16)
    tracemalloc.start()
    model = KneserNey(ids, 5, 10_000)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 24 * 5 * len(ids)
    assert peak < held + 100 * len(ids)
    assert np.exp(-model.log_probabilities(ids).mean()) < 100
