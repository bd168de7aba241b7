"""Text ↔ ids: the ids of Hugging Face's library, and decoding without loss."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK, Decoder, Tokenizer, id_dtype
from charlm.data.vocabulary import learn_tokenizer, load_tokenizer
from charlm.errors import TokenizerError

TEXT = (
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


def learn(text: str = TEXT, **fields: object) -> Tokenizer:
    return learn_tokenizer([text], Section(**fields))


# Bytes have no options.
TOKENIZERS = {
    (name, number): learn(**level, **(options if name != "byte" else {}))
    for name, level in LEVELS.items()
    for number, options in enumerate(OPTIONS)
}
LIBRARIES = {
    key: HuggingFaceTokenizer.from_str(tokenizer.to_json()) for key, tokenizer in TOKENIZERS.items()
}


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_ids_are_those_of_the_file_loaded_by_hugging_face_alone(level, text):
    for number, options in enumerate(OPTIONS):
        ours, theirs = TOKENIZERS[level, number], LIBRARIES[level, number]
        assert ours.encode(text).tolist() == theirs.encode(text).ids, options


@pytest.mark.parametrize("level", LEVELS)
def test_a_long_text_has_the_ids_of_hugging_face(level):
    # Longer than a chunk of the table look-up, and not a multiple of it.
    text = (TEXT + "x") * 120
    ids = TOKENIZERS[level, 0].encode(text).tolist()
    assert ids == LIBRARIES[level, 0].encode(text).ids
    assert len(ids) > 20


@pytest.mark.parametrize("level", LEVELS)
def test_a_loaded_tokenizer_equals_the_saved_one(level):
    saved = TOKENIZERS[level, 0]
    loaded = load_tokenizer(saved.to_json(), saved.section)
    assert loaded.vocabulary_size == saved.vocabulary_size
    assert loaded.to_json() == saved.to_json()
    np.testing.assert_array_equal(loaded.encode(TEXT), saved.encode(TEXT))


@pytest.mark.parametrize("level", ["byte", "bpe"])
@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_decoded_bytes_and_subwords_are_the_text(level, text):
    tokenizer = TOKENIZERS[level, 0]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not {EOS, UNK} & set(tokenizer.encode(text).tolist())


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from(TEXT)))
def test_decoded_characters_are_the_text(text):
    tokenizer = TOKENIZERS["char", 0]
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)


@settings(max_examples=60, deadline=None)
@given(text=texts)
def test_decoded_words_are_the_text_that_the_vocabulary_was_learned_from(text):
    tokenizer = learn(text, level="word")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=30, deadline=None)
@given(lines=st.lists(st.lists(st.sampled_from(["a", "bee", "c.", "日本", "-"]), min_size=1)))
def test_decoded_words_between_spaces_are_lines_with_single_spaces(lines):
    text = "".join(" ".join(line) + "\n" for line in lines)
    tokenizer = learn("a bee c. 日本 -\n", **LEVELS["whitespace"])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(tokens=st.lists(st.integers(EOS, 257)))
def test_decoding_byte_by_byte_equals_decoding_each_document_at_once(tokens):
    tokenizer = TOKENIZERS["byte", 0]
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


def test_a_decoder_returns_a_character_once_it_is_complete():
    decoder = Decoder(TOKENIZERS["byte", 0])
    assert [decoder.feed(byte + 2) for byte in "aé👩".encode()] == ["a", "", "é", "", "", "", "👩"]
    assert (decoder.feed(0xC3 + 2), decoder.flush()) == ("", "\N{REPLACEMENT CHARACTER}")


def test_eos_is_decoded_as_a_line_end_only_between_documents():
    for eos, expected in (
        ("document", "a\nb"),
        ("line", "ab"),
        ("sentence", "ab"),
        ("none", "ab"),
    ):
        tokenizer = learn("ab", level="char", eos=eos)
        assert tokenizer.decode([2, EOS, 3]) == expected, eos


@pytest.mark.parametrize("level", LEVELS)
def test_eos_has_id_0_and_unk_has_id_1(level):
    vocabulary = LIBRARIES[level, 0].get_vocab()
    assert (vocabulary["<EOS>"], vocabulary["<UNK>"]) == (EOS, UNK) == (0, 1)
    assert sorted(vocabulary.values()) == list(range(TOKENIZERS[level, 0].vocabulary_size))


@pytest.mark.parametrize("level", ["char", "byte", "word", "bpe"])
def test_a_text_that_contains_the_names_of_eos_and_unk_has_neither_token(level):
    assert not {EOS, UNK} & set(TOKENIZERS[level, 0].encode(" <EOS> <UNK>").tolist())


def test_words_between_spaces_may_be_the_names_of_eos_and_unk():
    tokenizer = learn("a b <EOS> c <UNK> <unk>\n", level="word", words="whitespace")
    ids = tokenizer.encode("a <EOS> <UNK> <unk> \n").tolist()
    assert ids[1:] == [EOS, UNK, UNK, EOS]  # As docs/corpora.md says.


def test_ids_of_characters_follow_their_code_points():
    tokenizer = learn("cabbage", level="char")
    assert tokenizer.encode("abcegz").tolist() == [2, 3, 4, 5, 6, UNK]
    assert tokenizer.decode([2, UNK, 3]) == "a<UNK>b"


def test_characters_less_frequent_than_min_count_are_unknown():
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


def test_words_less_frequent_than_min_count_are_unknown():
    tokenizer = learn(" a a a b b c", level="word", min_count=2)
    assert tokenizer.encode(" a b c").tolist() == [2, 3, UNK]


def test_a_vocabulary_has_exactly_the_configured_size():
    for level in ("char", "word", "whitespace"):
        for size in (3, 10, 20):
            fields = LEVELS[level] | {"vocabulary_size": size}
            assert learn(TEXT * 2, **fields).vocabulary_size == size, level
    text = "the cat and the other cat sat there then " * 9
    for size in (258, 259, 270):
        assert learn(text, level="bpe", vocabulary_size=size).vocabulary_size == size


def test_a_vocabulary_of_subwords_has_at_least_all_bytes():
    with pytest.raises(TokenizerError, match=r"at least 258 for bpe .*got 257"):
        learn(level="bpe", vocabulary_size=257)


def test_frequent_subwords_are_merged_within_a_word_only():
    tokenizer = learn("low low low lower lower newest\n" * 4, level="bpe", vocabulary_size=270)
    assert [tokenizer.token_bytes[index] for index in tokenizer.encode("low low")] == [
        b"low",
        b" low",
    ]


def test_the_vocabulary_of_bytes_is_fixed():
    tokenizer = learn("a", level="byte")
    assert tokenizer.vocabulary_size == 258
    assert tokenizer.encode("a\u00e9").tolist() == [0x61 + 2, 0xC3 + 2, 0xA9 + 2]
    every_byte = tokenizer.encode_pieces([bytes(range(256))], [False])
    assert every_byte.tolist() == list(range(2, 258))


def test_a_word_includes_the_space_before_it():
    tokenizer = learn("The cat's  hat,\n it_is: 3\n", level="word")
    pieces = [
        tokenizer.token_bytes[index].decode()
        for index in tokenizer.encode("The cat's  hat,\n it_is: 3\n")
    ]
    assert pieces == ["The", " cat's", " ", " hat", ",", "\n", " it_is", ":", " 3", "\n"]


def test_words_between_spaces_take_unk_markers_as_unk_and_line_ends_as_eos():
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


def test_an_unk_marker_inside_a_word_is_not_unk():
    tokenizer = learn("x<unk> <unk>y <unk>", level="word", words="whitespace")
    assert [index == UNK for index in tokenizer.encode("x<unk> <unk>y <unk>")] == [
        False,
        False,
        True,
    ]


def test_lowercase_maps_capital_letters_to_small_ones():
    tokenizer = learn("ab", level="char", lowercase=True)
    assert tokenizer.encode("aBA").tolist() == [2, 3, 2]


def test_normalization_precedes_the_counting_of_characters():
    tokenizer = learn("cafe\u0301", level="char", normalization="nfc")
    assert tokenizer.vocabulary_size == 6
    assert tokenizer.decode(tokenizer.encode("cafe\u0301")) == "caf\u00e9"


def test_find_unknown_returns_distinct_characters_in_order():
    assert learn("abc", level="char").find_unknown("azbyzq") == ["z", "y", "q"]
    assert learn("abc", level="char", lowercase=True).find_unknown("ABC") == []


def test_find_unknown_returns_words_without_their_space():
    assert learn(" the cat", level="word").find_unknown(" the dog the dog bird") == ["dog", "bird"]
    assert learn("the cat", level="word", words="whitespace").find_unknown("the dog <unk>") == [
        "dog",
        "<UNK>",
    ]


def test_find_unknown_returns_unknown_spaces():
    assert learn(" the cat", level="word").find_unknown(" the   cat") == ["  "]


def test_no_text_is_unknown_as_bytes_or_subwords():
    for level in ("byte", "bpe"):
        assert TOKENIZERS[level, 0].find_unknown("☃ never seen") == []


def test_a_damaged_file_is_an_error_of_one_line():
    for text in ("", "{}", "not json", "[1, 2]"):
        with pytest.raises(TokenizerError, match=r"^tokenizer\.json: cannot be read: [^\n]+$"):
            load_tokenizer(text, Section())


def test_a_truncated_file_is_an_error():
    for level in LEVELS:
        text = TOKENIZERS[level, 0].to_json()
        with pytest.raises(TokenizerError, match="cannot be read"):
            load_tokenizer(text[: len(text) // 2], Section())


def test_a_file_with_other_ids_of_eos_and_unk_is_an_error():
    data = json.loads(TOKENIZERS["char", 0].to_json())
    data["model"]["vocab"] |= {"<EOS>": 1, "<UNK>": 0}
    with pytest.raises(TokenizerError, match="<EOS> must be 0 and <UNK> must be 1"):
        load_tokenizer(json.dumps(data), Section())


def test_a_lone_surrogate_is_an_error_with_its_position():
    for tokenizer in TOKENIZERS.values():
        for method in (tokenizer.encode, tokenizer.find_unknown):
            with pytest.raises(
                TokenizerError, match=r"^character 2 .*\('\\udc80'\) is not Unicode; "
            ):
                method("ab\udc80")


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.tuples(texts, st.booleans()), max_size=6))
def test_ids_of_pieces_are_concatenated_with_eos_after_the_marked_ones(level, pieces):
    tokenizer = TOKENIZERS[level, 1]
    expected = [
        index for text, end in pieces for index in [*tokenizer.encode(text).tolist(), *[EOS] * end]
    ]
    joined = tokenizer.encode_pieces(
        [text.encode() for text, _ in pieces], [end for _, end in pieces]
    )
    assert joined.tolist() == expected


def test_a_long_piece_has_one_eos_at_its_end():
    for level in LEVELS:
        tokenizer = TOKENIZERS[level, 0]
        text = "the cat\n" * 1500  # The library encodes it in several parts.
        ids = tokenizer.encode_pieces([text.encode()], [True])
        assert ids.tolist() == [*tokenizer.encode(text).tolist(), EOS], level


def test_ids_have_the_smallest_unsigned_type():
    sizes = {2: "uint8", 256: "uint8", 257: "uint16", 65_536: "uint16", 65_537: "uint32"}
    for size, dtype in sizes.items():
        assert id_dtype(size) == np.dtype(dtype), size


def test_joined_token_texts_are_the_text_with_the_given_markers():
    spaced = learn("the cat\nthe dog\n", level="word", words="whitespace")
    texts = spaced.token_texts(unknown=b"?")
    ids = spaced.encode("the cat\nthe bird\n")
    assert b"".join(texts[index] for index in ids) == b" the cat\n the ?\n"
    assert spaced.token_texts()[UNK] == b""
    characters = learn("abc", level="char")
    assert characters.token_texts() == [b"\n", b"", b"a", b"b", b"c"]
    assert characters.token_texts(eos=b"", unknown=b"<UNK>")[:3] == [b"", b"<UNK>", b"a"]
