"""The surprisal of each token, and of each class of tokens."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK
from charlm.data.vocabulary import learn_tokenizer
from charlm.evaluation.surprisal import count_words, distances, summarize

TEXT = "The cat's 12 mats,\nthe été!\n"


def of_bits(bits: list[float]) -> np.ndarray:
    return -np.array(bits) * math.log(2)


def table(rows: list[dict], name: str) -> dict:
    return {row[name]: (row["tokens"], pytest.approx(row["surprise_bits"])) for row in rows}


def test_classes_positions_and_distances_of_characters_by_hand():
    tokenizer = learn_tokenizer(["ab1 ,"], Section(level="char"))
    ids = np.append(tokenizer.encode("ab 1, aé"), EOS)  # é was never seen.
    surprisal = summarize(
        ids, of_bits([1, 2, 3, 4, 5, 6, 7, 8, 9]), tokenizer, records=True, word_counts=None
    )
    assert table(surprisal.by_class, "class") == {
        "letters": (3, 10 / 3),
        "digits": (1, 4),
        "spaces": (2, 4.5),
        "punctuation": (1, 5),
        "unknown": (1, 8),
        "ends": (1, 9),
    }
    assert table(surprisal.by_position, "position") == {1: (3, 12 / 3), 2: (1, 2)}
    assert table(surprisal.by_distance, "distance") == {2: (1, 6), 4: (1, 7), None: (7, 32 / 7)}
    assert surprisal.by_distance[1]["distance_to"] == 7
    assert surprisal.surprise_bits == pytest.approx(5)
    assert surprisal.loss_nats == pytest.approx(5 * math.log(2))
    assert [row["share_of_surprise"] for row in surprisal.by_class][:2] == pytest.approx(
        [10 / 45, 4 / 45]
    )
    assert [row["text"] for row in surprisal.each] == [
        "a",
        "b",
        " ",
        "1",
        ",",
        " ",
        "a",
        "<UNK>",
        "\n",
    ]
    assert [row["surprise_bits"] for row in surprisal.each] == pytest.approx(
        [1, 2, 3, 4, 5, 6, 7, 8, 9]
    )


def test_only_the_first_tokens_are_shown_and_all_are_counted():
    tokenizer = learn_tokenizer(["ab"], Section(level="char"))
    surprisal = summarize(
        tokenizer.encode("abab"),
        of_bits([1] * 4),
        tokenizer,
        records=False,
        word_counts=None,
        show=1,
    )
    assert ([row["text"] for row in surprisal.each], surprisal.tokens) == (["a"], 4)


def test_words_that_occur_at_most_five_times_in_training_are_rare():
    tokenizer = learn_tokenizer(["cat owl."], Section(level="char"))
    ids = tokenizer.encode("cat owl.")
    words = count_words("cat " * 6 + "owl " * 5)
    surprisal = summarize(
        ids, of_bits([1, 1, 1, 8, 2, 2, 2, 4]), tokenizer, records=False, word_counts=words
    )
    assert table(surprisal.by_class, "class") == {
        "letters": (3, 1),
        "spaces": (1, 8),
        "punctuation": (1, 4),
        "rare words": (3, 2),
    }
    surprisal = summarize(
        ids, of_bits([1] * 8), tokenizer, records=False, word_counts=words, rare=4
    )
    assert "rare words" not in table(surprisal.by_class, "class")


def test_a_word_has_the_class_of_its_first_letter_and_a_byte_that_of_its_character():
    for section, classes in [
        (Section(level="word"), {"letters": 5, "digits": 1, "spaces": 2, "punctuation": 2}),
        (Section(level="word", words="whitespace"), {"letters": 5, "digits": 1, "ends": 2}),
        (Section(level="byte"), {"letters": 19, "digits": 2, "spaces": 6, "punctuation": 3}),
        (Section(level="char"), {"letters": 17, "digits": 2, "spaces": 6, "punctuation": 3}),
    ]:
        tokenizer = learn_tokenizer([TEXT], section)
        by_line = tokenizer.separates_by_space
        pieces = TEXT.removesuffix("\n").split("\n") if by_line else [TEXT]
        ids = tokenizer.encode_pieces([piece.encode() for piece in pieces], [by_line] * len(pieces))
        surprisal = summarize(
            ids, of_bits([1] * len(ids)), tokenizer, records=False, word_counts=None
        )
        assert {row["class"]: row["tokens"] for row in surprisal.by_class} == classes, section
        assert "".join(row["text"] for row in surprisal.each) == TEXT, section


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
def test_the_distance_is_that_of_a_search_backward(ids):
    expected = [
        next((back for back in range(1, at + 1) if ids[at - back] == token), 0)
        for at, token in enumerate(ids)
    ]
    assert distances(np.array(ids, dtype=np.int64)).tolist() == expected


@settings(max_examples=60)
@given(
    st.text(st.sampled_from("ab Z9.'é\n_"), min_size=1),
    st.sampled_from(["char", "byte", "word", "bpe"]),
)
def test_every_token_is_in_one_class_and_at_one_distance(text, level):
    size = {"vocabulary_size": 300} if level == "bpe" else {}
    tokenizer = learn_tokenizer(["ab Z9.'ab ab\n"], Section(level=level, **size))
    ids = tokenizer.encode(text)
    surprisal = summarize(
        ids,
        of_bits(list(range(1, len(ids) + 1))),
        tokenizer,
        records=False,
        word_counts=count_words(text),
    )
    for rows in (surprisal.by_class, surprisal.by_distance):
        assert sum(row["tokens"] for row in rows) == len(ids)
        assert sum(row["share_of_surprise"] for row in rows) == pytest.approx(1)
    unknown = {row["class"]: row["tokens"] for row in surprisal.by_class}.get("unknown", 0)
    assert unknown == np.count_nonzero(ids == UNK)


def test_bytes_that_are_not_utf_8_are_punctuation():
    tokenizer = learn_tokenizer([""], Section(level="byte"))
    ids = tokenizer.encode_pieces([b"a\xffb"], [False])
    surprisal = summarize(ids, of_bits([1, 2, 3]), tokenizer, records=False, word_counts=None)
    assert table(surprisal.by_class, "class") == {"letters": (2, 2), "punctuation": (1, 2)}
