"""The surprise of each token, and of each kind of token."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config.schema import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK, learn_tokenizer
from charlm.evaluation.surprisal import count_words, distances, summarize

TEXT = "The cat's 12 mats,\nthe été!\n"


def of_bits(bits: list[float]) -> np.ndarray:
    return -np.array(bits) * math.log(2)


def table(rows: list[dict], name: str) -> dict:
    return {row[name]: (row["tokens"], pytest.approx(row["surprise_bits"])) for row in rows}


def test_classes_positions_and_distances_of_characters_by_hand():
    tokenizer = learn_tokenizer(["ab1 ,"], Section(level="char"))
    ids = np.append(tokenizer.encode("ab 1, aé"), EOS)  # é was never seen.
    found = summarize(
        ids, of_bits([1, 2, 3, 4, 5, 6, 7, 8, 9]), tokenizer, records=True, words=None
    )
    assert table(found.by_class, "class") == {
        "letters": (3, 10 / 3),
        "digits": (1, 4),
        "spaces": (2, 4.5),
        "punctuation": (1, 5),
        "unknown": (1, 8),
        "ends": (1, 9),
    }
    assert table(found.by_position, "position") == {1: (3, 12 / 3), 2: (1, 2)}
    assert table(found.by_distance, "distance") == {2: (1, 6), 4: (1, 7), None: (7, 32 / 7)}
    assert found.by_distance[1]["distance_to"] == 7
    assert found.surprise_bits == pytest.approx(5)
    assert found.loss_nats == pytest.approx(5 * math.log(2))
    assert [row["share_of_surprise"] for row in found.by_class][:2] == pytest.approx(
        [10 / 45, 4 / 45]
    )
    assert [row["text"] for row in found.each] == ["a", "b", " ", "1", ",", " ", "a", "<UNK>", "\n"]
    assert [row["surprise_bits"] for row in found.each] == pytest.approx(
        [1, 2, 3, 4, 5, 6, 7, 8, 9]
    )


def test_only_the_first_tokens_are_shown_and_all_are_summed():
    tokenizer = learn_tokenizer(["ab"], Section(level="char"))
    found = summarize(
        tokenizer.encode("abab"), of_bits([1] * 4), tokenizer, records=False, words=None, show=1
    )
    assert ([row["text"] for row in found.each], found.tokens) == (["a"], 4)


def test_a_word_is_rare_that_the_training_text_has_five_times_at_most():
    tokenizer = learn_tokenizer(["cat owl."], Section(level="char"))
    ids = tokenizer.encode("cat owl.")
    words = count_words("cat " * 6 + "owl " * 5)
    found = summarize(ids, of_bits([1, 1, 1, 8, 2, 2, 2, 4]), tokenizer, records=False, words=words)
    assert table(found.by_class, "class") == {
        "letters": (3, 1),
        "spaces": (1, 8),
        "punctuation": (1, 4),
        "rare words": (3, 2),
    }
    found = summarize(ids, of_bits([1] * 8), tokenizer, records=False, words=words, rare=4)
    assert "rare words" not in table(found.by_class, "class")


@pytest.mark.parametrize(
    ("section", "classes"),
    [
        (Section(level="word"), {"letters": 5, "digits": 1, "spaces": 2, "punctuation": 2}),
        (Section(level="word", words="whitespace"), {"letters": 5, "digits": 1, "ends": 2}),
        (Section(level="byte"), {"letters": 19, "digits": 2, "spaces": 6, "punctuation": 3}),
        (Section(level="char"), {"letters": 17, "digits": 2, "spaces": 6, "punctuation": 3}),
    ],
)
def test_a_token_with_its_space_is_judged_by_what_follows_and_a_byte_by_its_character(
    section, classes
):
    tokenizer = learn_tokenizer([TEXT], section)
    ends = (
        [line for line in TEXT.splitlines(keepends=True)]
        if tokenizer.separates_by_space
        else [TEXT]
    )
    pieces = [
        line.removesuffix("\n").encode() if tokenizer.separates_by_space else line.encode()
        for line in ends
    ]
    ids = tokenizer.encode_pieces(pieces, [tokenizer.separates_by_space] * len(pieces))
    found = summarize(ids, of_bits([1] * len(ids)), tokenizer, records=False, words=None)
    assert {row["class"]: row["tokens"] for row in found.by_class} == classes
    assert "".join(row["text"] for row in found.each) == TEXT


def test_words_are_letters_digits_marks_and_the_apostrophes_between_them():
    assert count_words("It's so, so-so. 'Quoted' x_1 l’été हिन्दी") == {
        "It's": 1,
        "so": 3,
        "Quoted": 1,
        "x_1": 1,
        "l’été": 1,
        "हिन्दी": 1,
    }
    assert count_words("") == {}


@given(st.lists(st.integers(0, 4)))
def test_the_distance_is_what_a_search_backwards_finds(ids):
    expected = [
        next((back for back in range(1, at + 1) if ids[at - back] == token), 0)
        for at, token in enumerate(ids)
    ]
    assert distances(np.array(ids, dtype=np.int64)).tolist() == expected


@given(
    st.text(st.sampled_from("ab Z9.'é\n_"), min_size=1),
    st.sampled_from(["char", "byte", "word", "bpe"]),
)
def test_every_token_is_in_one_class_and_at_one_distance(text, level):
    size = {"vocabulary_size": 300} if level == "bpe" else {}
    tokenizer = learn_tokenizer(["ab Z9.'ab ab\n"], Section(level=level, **size))
    ids = tokenizer.encode(text)
    found = summarize(
        ids,
        of_bits(list(range(1, len(ids) + 1))),
        tokenizer,
        records=False,
        words=count_words(text),
    )
    for rows in (found.by_class, found.by_distance):
        assert sum(row["tokens"] for row in rows) == len(ids)
        assert sum(row["share_of_surprise"] for row in rows) == pytest.approx(1)
    unknown = {row["class"]: row["tokens"] for row in found.by_class}.get("unknown", 0)
    assert unknown == np.count_nonzero(ids == UNK)


def test_bytes_that_are_no_characters_are_punctuation():
    tokenizer = learn_tokenizer([""], Section(level="byte"))
    ids = tokenizer.encode_pieces([b"a\xffb"], [False])
    found = summarize(ids, of_bits([1, 2, 3]), tokenizer, records=False, words=None)
    assert table(found.by_class, "class") == {"letters": (2, 2), "punctuation": (1, 2)}
