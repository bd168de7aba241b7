"""Text ↔ ids: the same as Hugging Face's library, and back again without a loss."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.config.schema import Tokenizer as Section
from charlm.data.tokenizer import (
    EOS,
    UNK,
    Decoder,
    Tokenizer,
    id_dtype,
    learn_tokenizer,
    load_tokenizer,
)
from charlm.errors import TokenizerError

LEARNT = (
    "The quick brown fox — “jumps” over the lazy dog's back.\n"
    "Ärger, naïve cafés (cafe\u0301s) and 12,345 tokens_of_text!\r\n"
    "\n"
    "  日本語です。 Привет, мир 👩\u200d🚀\tthe the the cat cat <EOS> <UNK> <unk>\n"
)
LEVELS = {
    "char": {"level": "char"},
    "byte": {"level": "byte"},
    "word": {"level": "word"},
    "whitespace": {"level": "word", "words": "whitespace"},
    "bpe": {"level": "bpe", "vocabulary_size": 300},
}
OPTIONS = [
    {},
    {"lowercase": True},
    {"normalization": "nfc"},
    {"lowercase": True, "normalization": "nfkd"},
]
PIECES = [
    "<EOS>",
    "<UNK>",
    "<unk>",
    "\n",
    "\r\n",
    "\r",
    " ",
    "  ",
    "\t",
    "e\u0301",
    "\u0301",
    "İ",
    "Σ",
    "ﬁ",
    "👩\u200d🚀",
    "\u00a0",
    "\u2028",
    "\x85",
    "\0",
    "the",
    "The",
    "cat's",
    "don\u2019t",
    "_a1",
    "日本。",
    "\ufeff",
]

any_character = st.characters(exclude_categories=("Cs",))
texts = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(any_character, max_size=4)), max_size=12
).map("".join)


def learn(text: str = LEARNT, **fields: object) -> Tokenizer:
    return learn_tokenizer([text], Section(**fields))


LEARNT_ONCE = {
    (name, number): learn(
        **level, **(options if name != "byte" else {})
    )  # Bytes are taken as they are.
    for name, level in LEVELS.items()
    for number, options in enumerate(OPTIONS)
}
LOADED_ONCE = {
    key: HuggingFaceTokenizer.from_str(tokenizer.to_json())
    for key, tokenizer in LEARNT_ONCE.items()
}


@pytest.mark.parametrize("options", range(len(OPTIONS)), ids=str)
@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_ids_are_those_of_the_file_loaded_by_hugging_face_alone(level, options, text):
    ours, theirs = LEARNT_ONCE[level, options], LOADED_ONCE[level, options]
    assert ours.encode(text).tolist() == theirs.encode(text).ids


@pytest.mark.parametrize("level", LEVELS)
def test_the_text_that_was_learnt_has_the_ids_of_hugging_face(level):
    ids = LEARNT_ONCE[level, 0].encode(LEARNT).tolist()
    assert ids == LOADED_ONCE[level, 0].encode(LEARNT).ids
    assert len(ids) > 20


@pytest.mark.parametrize("level", LEVELS)
def test_a_long_text_has_the_ids_of_hugging_face(level):
    long = (
        LEARNT + "x"
    ) * 120  # Longer than any chunk that a table is looked up in, and out of step with it.
    assert LEARNT_ONCE[level, 0].encode(long).tolist() == LOADED_ONCE[level, 0].encode(long).ids


@pytest.mark.parametrize("level", LEVELS)
def test_a_loaded_tokenizer_is_the_one_that_was_saved(level):
    saved = LEARNT_ONCE[level, 0]
    loaded = load_tokenizer(saved.to_json(), saved.section)
    assert loaded.vocabulary_size == saved.vocabulary_size
    assert loaded.to_json() == saved.to_json()
    np.testing.assert_array_equal(loaded.encode(LEARNT), saved.encode(LEARNT))


@pytest.mark.parametrize("level", ["byte", "bpe"])
@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_bytes_and_subwords_give_back_any_text(level, text):
    tokenizer = LEARNT_ONCE[level, 0]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not {EOS, UNK} & set(tokenizer.encode(text).tolist())


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from(LEARNT)))
def test_characters_give_back_any_text_of_their_alphabet(text):
    tokenizer = LEARNT_ONCE["char", 0]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)


@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_words_give_back_the_text_they_were_learnt_on(text):
    tokenizer = learn(text, level="word")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=30, deadline=None)
@given(lines=st.lists(st.lists(st.sampled_from(["a", "bee", "c.", "日本", "-"]), min_size=1)))
def test_whitespace_words_give_back_lines_with_one_space_between_words(lines):
    text = "".join(" ".join(line) + "\n" for line in lines)
    tokenizer = learn("a bee c. 日本 -\n", **LEVELS["whitespace"])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(tokens=st.lists(st.integers(EOS, 257)))
def test_a_decoder_fed_byte_by_byte_gives_what_the_bytes_of_each_document_give_at_once(tokens):
    tokenizer = LEARNT_ONCE["byte", 0]
    documents: list[list[int]] = [[]]
    for token in tokens:
        documents.append([]) if token == EOS else documents[-1].append(token)
    expected = "\n".join(
        b"".join(b"<UNK>" if token == UNK else bytes([token - 2]) for token in document).decode(
            errors="replace"
        )
        for document in documents
    )
    decoder = Decoder(tokenizer)
    assert "".join(map(decoder.feed, tokens)) + decoder.flush() == expected
    assert tokenizer.decode(tokens) == expected


def test_a_decoder_waits_for_the_rest_of_a_character():
    decoder = Decoder(LEARNT_ONCE["byte", 0])
    assert [decoder.feed(byte + 2) for byte in "aé👩".encode()] == ["a", "", "é", "", "", "", "👩"]
    assert (decoder.feed(0xC3 + 2), decoder.flush()) == ("", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize(
    ("eos", "expected"), [("document", "a\nb"), ("line", "ab"), ("sentence", "ab"), ("none", "ab")]
)
def test_eos_is_written_as_a_line_end_where_it_sets_documents_apart(eos, expected):
    tokenizer = learn("ab", level="char", eos=eos)
    assert tokenizer.decode([2, EOS, 3]) == expected


@pytest.mark.parametrize("level", LEVELS)
def test_eos_is_zero_and_unk_is_one(level):
    vocabulary = LOADED_ONCE[level, 0].get_vocab()
    assert (vocabulary["<EOS>"], vocabulary["<UNK>"]) == (EOS, UNK) == (0, 1)
    assert sorted(vocabulary.values()) == list(range(LEARNT_ONCE[level, 0].vocabulary_size))


@pytest.mark.parametrize("level", ["char", "byte", "word", "bpe"])
def test_a_text_that_spells_eos_and_unk_has_neither(level):
    assert not {EOS, UNK} & set(LEARNT_ONCE[level, 0].encode(" <EOS> <UNK>").tolist())


def test_characters_are_numbered_in_the_order_of_their_code_points():
    tokenizer = learn("cabbage", level="char")
    assert tokenizer.encode("abcegz").tolist() == [2, 3, 4, 5, 6, UNK]
    assert tokenizer.decode([2, UNK, 3]) == "a<UNK>b"


def test_characters_that_are_rarer_than_min_count_are_unknown():
    tokenizer = learn("aaabbc", level="char", min_count=2)
    assert tokenizer.vocabulary_size == 4
    assert tokenizer.encode("abc").tolist() == [2, 3, UNK]


def test_a_small_vocabulary_keeps_the_most_frequent_characters():
    tokenizer = learn("abbcccdddd", level="char", vocabulary_size=4)
    assert tokenizer.vocabulary_size == 4
    assert tokenizer.encode("abcd").tolist() == [UNK, UNK, 2, 3]


def test_a_small_vocabulary_keeps_the_most_frequent_words():
    tokenizer = learn("a b b c c c d d d d", level="word", words="whitespace", vocabulary_size=4)
    assert tokenizer.vocabulary_size == 4
    assert tokenizer.encode("a b c d").tolist() == [UNK, UNK, 3, 2]


def test_words_that_are_rarer_than_min_count_are_unknown():
    tokenizer = learn(" a a a b b c", level="word", min_count=2)
    assert tokenizer.encode(" a b c").tolist() == [2, 3, UNK]


@pytest.mark.parametrize("size", [3, 10, 20])
@pytest.mark.parametrize("level", ["char", "word", "whitespace"])
def test_a_vocabulary_has_exactly_the_size_that_was_asked_for(level, size):
    fields = LEVELS[level] | {"vocabulary_size": size}
    assert learn(LEARNT * 2, **fields).vocabulary_size == size


@pytest.mark.parametrize("size", [258, 259, 270])
def test_subwords_have_exactly_the_size_that_was_asked_for(size):
    assert (
        learn(
            "the cat and the other cat sat there then " * 9, level="bpe", vocabulary_size=size
        ).vocabulary_size
        == size
    )


def test_subwords_need_room_for_every_byte():
    with pytest.raises(TokenizerError, match=r"at least 258 for bpe .*got 257"):
        learn(level="bpe", vocabulary_size=257)


def test_subwords_merge_what_is_frequent_and_never_over_a_word():
    tokenizer = learn("low low low lower lower newest\n" * 4, level="bpe", vocabulary_size=270)
    assert [tokenizer.token_bytes[index] for index in tokenizer.encode("low low")] == [
        b"low",
        b" low",
    ]


def test_bytes_are_always_258_and_need_no_learning():
    tokenizer = learn("a", level="byte")
    assert tokenizer.vocabulary_size == 258
    assert tokenizer.encode("a\u00e9").tolist() == [0x61 + 2, 0xC3 + 2, 0xA9 + 2]


def test_a_word_carries_the_space_before_it():
    tokenizer = learn("The cat's  hat,\n it_is: 3\n", level="word")
    pieces = [
        tokenizer.token_bytes[index].decode()
        for index in tokenizer.encode("The cat's  hat,\n it_is: 3\n")
    ]
    assert pieces == ["The", " cat's", " ", " hat", ",", "\n", " it_is", ":", " 3", "\n"]


def test_whitespace_words_read_the_unk_of_a_corpus_as_unk_and_a_line_end_as_eos():
    tokenizer = learn("the <unk> sat\nthe mat <unk>\n", level="word", words="whitespace")
    assert tokenizer.encode("<unk> the\n mat  zebra\n\n").tolist() == [
        UNK,
        2,
        EOS,
        3,
        UNK,
        EOS,
        EOS,
    ]
    assert tokenizer.vocabulary_size == 5
    assert tokenizer.decode([2, UNK, EOS, 3]) == "the <UNK>\nmat"


def test_only_a_whole_unk_is_unk():
    tokenizer = learn("x<unk> <unk>y <unk>", level="word", words="whitespace")
    assert [index == UNK for index in tokenizer.encode("x<unk> <unk>y <unk>")] == [
        False,
        False,
        True,
    ]


def test_lowercase_reads_capitals_as_small_letters():
    tokenizer = learn("ab", level="char", lowercase=True)
    assert tokenizer.encode("aBA").tolist() == [2, 3, 2]


def test_normalization_composes_characters_before_they_are_counted():
    tokenizer = learn("cafe\u0301", level="char", normalization="nfc")
    assert tokenizer.vocabulary_size == 6
    assert tokenizer.decode(tokenizer.encode("cafe\u0301")) == "caf\u00e9"


def test_unknown_characters_are_told_once_in_their_order():
    assert learn("abc", level="char").find_unknown("azbyzq") == ["z", "y", "q"]
    assert learn("abc", level="char", lowercase=True).find_unknown("ABC") == []


def test_unknown_words_are_told_without_their_space():
    assert learn(" the cat", level="word").find_unknown(" the dog the dog bird") == ["dog", "bird"]
    assert learn("the cat", level="word", words="whitespace").find_unknown("the dog <unk>") == [
        "dog",
        "<UNK>",
    ]


def test_unknown_spaces_are_told_as_they_are():
    assert learn(" the cat", level="word").find_unknown(" the   cat") == ["  "]


@pytest.mark.parametrize("level", ["byte", "bpe"])
def test_bytes_and_subwords_know_every_text(level):
    assert LEARNT_ONCE[level, 0].find_unknown("☃ never seen") == []


@pytest.mark.parametrize("text", ["", "{}", "not json", "[1, 2]"])
def test_a_damaged_file_is_told_in_one_line(text):
    with pytest.raises(TokenizerError, match=r"^tokenizer\.json: cannot be read: [^\n]+$"):
        load_tokenizer(text, Section())


@pytest.mark.parametrize("level", LEVELS)
def test_a_truncated_file_is_refused(level):
    text = LEARNT_ONCE[level, 0].to_json()
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(text[: len(text) // 2], Section())


def test_a_file_that_numbers_eos_otherwise_is_refused():
    data = json.loads(LEARNT_ONCE["char", 0].to_json())
    data["model"]["vocab"] |= {"<EOS>": 1, "<UNK>": 0}
    with pytest.raises(TokenizerError, match="<EOS> must be 0 and <UNK> must be 1"):
        load_tokenizer(json.dumps(data), Section())


@pytest.mark.parametrize("options", range(len(OPTIONS)), ids=str)
@pytest.mark.parametrize("level", LEVELS)
def test_a_lone_surrogate_is_refused_with_its_place(level, options):
    for method in (LEARNT_ONCE[level, options].encode, LEARNT_ONCE[level, options].find_unknown):
        with pytest.raises(
            TokenizerError, match=r"^character 2 of the text \('\\udc80'\) is not Unicode; "
        ):
            method("ab\udc80")


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.tuples(texts, st.booleans()), max_size=6))
def test_pieces_have_the_ids_of_each_and_eos_where_one_ends(level, pieces):
    tokenizer = LEARNT_ONCE[level, 1]
    expected = [
        index for text, end in pieces for index in [*tokenizer.encode(text).tolist(), *[EOS] * end]
    ]
    joined = tokenizer.encode_pieces(
        [text.encode() for text, _ in pieces], [end for _, end in pieces]
    )
    assert joined.tolist() == expected


@pytest.mark.parametrize(
    ("size", "kind"),
    [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")],
)
def test_ids_take_the_smallest_unsigned_type(size, kind):
    assert id_dtype(size) == np.dtype(kind)


def test_token_texts_put_together_are_the_text_and_take_the_given_markers():
    spaced = learn("the cat\nthe dog\n", level="word", words="whitespace")
    texts = spaced.token_texts(unknown=b"?")
    ids = spaced.encode("the cat\nthe bird\n")
    assert b"".join(texts[index] for index in ids) == b" the cat\n the ?\n"
    assert spaced.token_texts()[UNK] == b""
    characters = learn("abc", level="char")
    assert characters.token_texts() == [b"\n", b"", b"a", b"b", b"c"]
    assert characters.token_texts(eos=b"", unknown=b"<UNK>")[:3] == [b"", b"<UNK>", b"a"]
