"""A vocabulary grows: old ids stay, tokens are matched by their text, relatives are found."""

import pytest

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.growth import grow, relatives
from charlm.data.tokenizer import UNK
from charlm.data.vocabulary import learn_tokenizer, load_tokenizer

OLD = "To be or not to be, that is the question. The cat ate a fig.\n"
NEW = {
    "Polish": "Zażółć gęślą jaźń. Zażółć gęślą jaźń.\n",
    "Ukrainian": "Їжак біжить.\nЇжак біжить.\n",  # noqa: RUF001 - Cyrillic letters are meant.
    "emoji": "to be 😀😀 👍🏽 👍🏽\n",
}
LEVELS = {"char": {}, "word": {}, "bpe": {"vocabulary_size": 270}, "byte": {}}


def make(level: str):
    return learn_tokenizer([OLD], Section(level=level, **LEVELS[level]))


@pytest.mark.parametrize("level", LEVELS)
def test_old_ids_stay_and_nothing_of_the_new_text_is_unknown(level):
    for name, text in NEW.items():
        old = make(level)
        grown = grow(old, [text])
        vocabulary = grown.library.get_vocab()
        assert old.library.get_vocab().items() <= vocabulary.items(), name
        assert sorted(vocabulary.values()) == list(range(grown.vocabulary_size)), name
        assert grown.encode(OLD).tolist() == old.encode(OLD).tolist(), name
        assert UNK not in grown.encode(text).tolist(), name
        assert grown.decode(grown.encode(text)) == text, name


@pytest.mark.parametrize("level", LEVELS)
def test_a_grown_tokenizer_is_loaded_with_the_same_ids(level):
    grown = grow(make(level), NEW.values())
    loaded = load_tokenizer(grown.to_json(), grown.section)
    for text in (*NEW.values(), OLD):
        assert loaded.encode(text).tolist() == grown.encode(text).tolist()


def test_at_level_bpe_each_frequent_character_becomes_one_token():
    grown = grow(make("bpe"), NEW.values())
    for character in "ażę😀Їж":
        assert len(grown.encode(character)) == 1, character
    assert len(grown.encode("Ż")) == 2  # It does not occur.


def test_tokens_are_matched_by_their_text_and_not_by_their_order():
    """The same letters in another order of frequency do not become a substitution cipher."""
    old = learn_tokenizer(["aaaabbbc"], Section(level="char"))
    grown = grow(old, ["ccccbbba"])
    assert grown.vocabulary_size == old.vocabulary_size
    assert grown.encode("abc").tolist() == old.encode("abc").tolist()
    old = learn_tokenizer(["a cat cat cat dog dog owl"], Section(level="word"))
    grown = grow(old, ["an owl owl owl dog dog cat"])
    assert grown.vocabulary_size == old.vocabulary_size + 1
    assert grown.encode(" owl dog cat").tolist() == old.encode(" owl dog cat").tolist()


def test_a_new_token_resembles_an_old_one_in_case_compatibility_form_or_without_diacritics():
    old = learn_tokenizer(["abcEé\n"], Section(level="char"))
    grown = grow(old, ["ABÉèⓒçżñЖ"])
    texts = [token.decode() for token in grown.token_bytes]
    found = {
        texts[old.vocabulary_size + number]: None if relative is None else texts[relative]
        for number, relative in enumerate(relatives(grown, old.vocabulary_size))
    }
    assert found == {
        "A": "a",
        "B": "b",
        "É": "é",
        "è": "E",
        "ⓒ": "c",
        "ç": "c",
        "ż": None,
        "ñ": None,
        "Ж": None,
    }


def test_words_and_the_marker_of_unknown_words_have_relatives_of_their_own_kind():
    old = learn_tokenizer(["the cat\n"], Section(level="word"))
    grown = grow(old, ["The CAT <unk> unk\n"])
    num_old = old.vocabulary_size
    texts = [token.decode() for token in grown.token_bytes]
    found = dict(zip(texts[num_old:], relatives(grown, num_old), strict=True))
    assert texts[found["The"]] == "the"
    assert texts[found[" CAT"]] == " cat"
    assert all(found[text] is None for text in texts[num_old:] if "unk" in text)
