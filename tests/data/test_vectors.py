"""Pretrained vectors: each token gets its own, and a file that cannot be trusted is refused with its line."""

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from charlm.config.schema import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK, Tokenizer, learn_tokenizer
from charlm.data.vectors import Vectors, read_vectors
from charlm.errors import CorpusError
from charlm.storage.memory_maps import BLOCK_BYTES

GLOVE = "the 1 2 3\ncat 4 -.5 6e-1\nzebra 7 8 9\n"


def learn(text: str = "the cat and the dog", **fields: object) -> Tokenizer:
    return learn_tokenizer([text], Section(**{"level": "word"} | fields))


def write(folder: Path, content: str | bytes, name: str = "vectors.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def found_in(vectors: Vectors, tokenizer: Tokenizer) -> dict[str, list[float]]:
    """Return the vectors that were found, by the text of their tokens; the others must be zeros."""
    assert not vectors.rows[~vectors.found].any()
    names = [
        "<EOS>",
        "<UNK>",
        *(token.decode(errors="replace") for token in tokenizer.token_bytes[2:]),
    ]
    return {names[index]: vectors.rows[index].tolist() for index in np.flatnonzero(vectors.found)}


def read(
    folder: Path, content: str | bytes, tokenizer: Tokenizer, *, size: int = 3
) -> dict[str, list[float]]:
    return found_in(read_vectors(write(folder, content), tokenizer, size=size), tokenizer)


def refusal(path: Path, tokenizer: Tokenizer | None = None, *, size: int = 3) -> str:
    """Return what is told of a file that is refused, in one line, after its path."""
    with pytest.raises(CorpusError, match=f"^{re.escape(str(path))}") as caught:
        read_vectors(path, tokenizer or learn(), size=size)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_words_of_a_glove_file_get_their_vectors_and_the_others_zeros(tmp_path):
    tokenizer = learn()
    vectors = read_vectors(write(tmp_path, GLOVE), tokenizer, size=3)
    assert vectors.rows.dtype == np.float32
    assert vectors.rows.shape == (tokenizer.vocabulary_size, 3)
    assert found_in(vectors, tokenizer) == {
        "the": [1, 2, 3],
        " the": [1, 2, 3],
        " cat": [4, -0.5, pytest.approx(0.6)],
    }


def test_the_share_is_that_of_the_vocabulary_without_eos_and_unk(tmp_path):
    content = "</s> 1 1 1\n<unk> 2 2 2\n" + GLOVE
    assert (
        read_vectors(write(tmp_path, content), learn(), size=3).share == 3 / 5
    )  # the, " the", cat; not and, dog.


def test_a_word2vec_file_reads_like_a_glove_file_with_its_first_line_left_out(tmp_path):
    tokenizer = learn()
    assert read(tmp_path, "3 3\n" + GLOVE, tokenizer) == read(tmp_path, GLOVE, tokenizer)


def test_a_space_or_carriage_return_at_the_end_of_a_line_is_no_field(tmp_path):
    tokenizer = learn()
    untidy = "\ufeff3 3\r\n" + GLOVE.replace("\n", " \r\n")
    assert read(tmp_path, untidy, tokenizer) == read(tmp_path, GLOVE, tokenizer)
    assert read(tmp_path, GLOVE.removesuffix("\n"), tokenizer) == read(tmp_path, GLOVE, tokenizer)


@pytest.mark.parametrize("name", ["vectors.txt.gz", "vectors.txt"])
def test_a_gzip_file_is_known_by_its_first_bytes_whatever_its_name(tmp_path, name):
    tokenizer = learn()
    path = write(tmp_path, gzip.compress(GLOVE.encode()), name)
    assert found_in(read_vectors(path, tokenizer, size=3), tokenizer) == read(
        tmp_path, GLOVE, tokenizer
    )


def test_a_plain_file_may_be_called_gz(tmp_path):
    assert read_vectors(write(tmp_path, GLOVE, "vectors.gz"), learn(), size=3).found.any()


def test_numbers_are_the_last_fields_of_a_line_so_that_a_token_may_hold_spaces(tmp_path):
    tokenizer = learn("...", level="bpe", vocabulary_size=258)
    # Were the token the first field, "." would be found here.
    content = "a 1 2 3\n. . . 4 5 6\n"
    assert read(tmp_path, content, tokenizer) == {"a": [1, 2, 3]}
    spaced = learn("x " * 99, level="bpe", vocabulary_size=259)
    assert [*read(tmp_path, "x 1 2 3\n", spaced)] == ["x", " x"]


def test_only_a_space_ends_a_token(tmp_path):
    tokenizer = learn("10\u00a0km\u2028", level="char")
    content = "m 1 2 3\n\u00a0 4 5 6\n\u2028 7 8 9\n"
    assert read(tmp_path, content, tokenizer) == {
        "m": [1, 2, 3],
        "\u00a0": [4, 5, 6],
        "\u2028": [7, 8, 9],
    }


def test_characters_are_matched_as_they_are_the_space_too(tmp_path):
    tokenizer = learn("é a", level="char")
    assert read(tmp_path, "é 1 2 3\n  4 5 6\nb 7 8 9\n", tokenizer) == {
        "é": [1, 2, 3],
        " ": [4, 5, 6],
    }


def test_a_subword_that_is_no_whole_character_matches_nothing(tmp_path):
    tokenizer = learn("é", level="bpe", vocabulary_size=258)
    assert read(tmp_path, "é 1 2 3\na 4 5 6\n\ufffd 7 8 9\n", tokenizer) == {"a": [4, 5, 6]}


def test_eos_and_unk_have_names_of_their_own_in_such_files(tmp_path):
    tokenizer = learn()
    others = "unk 0 0 1\n<UNK> 0 0 1\n<EOS> 0 0 1\n</S> 0 0 1\n"
    assert (
        not read_vectors(write(tmp_path, others + GLOVE), tokenizer, size=3).found[[EOS, UNK]].any()
    )
    found = read(tmp_path, others + "</s> 1 1 1\n<unk> 2 2 2\n" + GLOVE, tokenizer)
    assert (found["<EOS>"], found["<UNK>"]) == ([1, 1, 1], [2, 2, 2])


def test_of_a_token_that_comes_twice_the_first_counts(tmp_path):
    assert read(tmp_path, "cat 1 2 3\ncat 4 5 6\n", learn()) == {" cat": [1, 2, 3]}


def test_capital_letters_are_another_word(tmp_path):
    assert read(tmp_path, "The 1 2 3\ncat 4 5 6\n", learn()) == {" cat": [4, 5, 6]}


def test_a_first_line_that_promises_too_little_is_believed_for_its_size_alone(tmp_path):
    assert read(tmp_path, "1 3\n" + GLOVE, learn())[" cat"][0] == 4


@pytest.mark.parametrize("content", [GLOVE, "3 3\n" + GLOVE], ids=["glove", "word2vec"])
@pytest.mark.parametrize("size", [2, 4])
def test_vectors_of_another_size_are_refused_with_the_setting_that_takes_them(
    tmp_path, content, size
):
    expected = (
        f":1: has 3 numbers a line, model.embedding_size is {size}; set model.embedding_size=3"
    )
    assert refusal(write(tmp_path, content), size=size) == expected


def test_a_first_line_that_lies_about_the_size_is_found_out_on_the_second(tmp_path):
    assert refusal(write(tmp_path, "3 2\n" + GLOVE), size=2).startswith(":2: has 3 numbers a line")


def test_a_number_in_a_token_is_not_counted_as_one_of_the_vector(tmp_path):
    assert refusal(write(tmp_path, "7 1 2 3\n"), size=4).startswith(":1: has 3 numbers a line")
    assert refusal(write(tmp_path, ". 7 . 1 2 3\n"), size=4).startswith(":1: has 3 numbers a line")


@pytest.mark.parametrize("line", ["dog 1 2", "zebra 1 2", "", "dog"])
def test_a_line_with_too_few_numbers_is_refused_whether_or_not_its_token_is_known(tmp_path, line):
    told = refusal(write(tmp_path, GLOVE + line + "\n"))
    assert told.startswith(
        f":4: has {line.count(' ')} numbers, not 3: the file is damaged or cut short;"
    )


@pytest.mark.parametrize("number", ["x", "nan", "-inf", "1e39", "0,5", "1.2.3", "é"])
def test_a_known_token_with_what_is_no_finite_number_is_refused(tmp_path, number):
    told = refusal(write(tmp_path, f"{GLOVE}dog 1 {number} 3\n"))
    assert told.startswith(f":4: the vector of 'dog' holds {number!r}, which is no finite number;")


def test_the_numbers_of_unknown_tokens_are_not_looked_at(tmp_path):
    assert [*read(tmp_path, "cat 1 2 3\nzebra x nan 3\n", learn())] == [" cat"]


def test_a_file_with_fewer_vectors_than_it_promises_is_cut_short(tmp_path):
    told = refusal(write(tmp_path, "4 3\n" + GLOVE))
    assert told.startswith(":4: the file is cut short: it ends after 3 of the 4 vectors")
    assert refusal(write(tmp_path, "5 3\n")).startswith(
        ":1: the file is cut short: it ends after 0 of the 5 vectors"
    )


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    assert refusal(tmp_path / "none.txt").startswith(
        ": cannot be read: No such file or directory; model.vectors must"
    )
    assert refusal(tmp_path).startswith(": cannot be read: Is a directory; model.vectors must")


@pytest.mark.parametrize("content", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_an_empty_file_is_refused(tmp_path, content):
    assert refusal(write(tmp_path, content)).startswith(": is empty; model.vectors must name")


def test_a_gzip_file_that_is_cut_short_or_damaged_is_refused(tmp_path):
    words = "".join(f"word{index} {index / 7} {index / 11} {index / 13}\n" for index in range(9000))
    whole = gzip.compress(words.encode())
    told = refusal(write(tmp_path, whole[: len(whole) // 2]))
    assert re.match(r":\d{4}: the gzip file is damaged: .*; download it again$", told)
    no_block = whole[:10] + b"\xff" + whole[11:]
    assert ":1: the gzip file is damaged: " in refusal(write(tmp_path, no_block))
    wrong_checksum = whole[:-8] + bytes(8)
    assert ":9001: the gzip file is damaged: " in refusal(
        write(tmp_path, wrong_checksum), learn("word7")
    )


@pytest.mark.parametrize("value", [0.1, 0.0], ids=["not UTF-8", "NUL"])
def test_the_binary_format_of_word2vec_is_refused_with_the_way_to_convert_it(tmp_path, value):
    binary = b"2 3\n" + b"".join(
        word + b" " + struct.pack("<3f", value, -value, 2) for word in (b"the", b"cat")
    )
    told = refusal(write(tmp_path, binary))
    assert told.startswith(":2: is not UTF-8 text: ")
    assert told.endswith("load_word2vec_format(OLD, binary=True).save_word2vec_format(NEW)")


def test_any_other_binary_file_is_refused(tmp_path):
    assert "unpack the zip file first" in refusal(write(tmp_path, b"PK\x03\x04\x14\0\0\0"))
    assert refusal(write(tmp_path, b"\x93NUMPY\x01")).startswith(
        ":1: is not UTF-8 text: byte 1 of the line is 0x93"
    )


@pytest.mark.parametrize("header", ["", "4 3\n"], ids=["glove", "word2vec"])
def test_a_line_that_is_not_utf_8_is_refused_even_if_no_token_wants_it(tmp_path, header):
    told = refusal(write(tmp_path, (header + GLOVE).encode() + b"caf\xe9 1 2 3\n"))
    problem = "is not UTF-8 text: byte 4 of the line is 0xe9; convert the file to UTF-8, or remove the line"
    assert told == f":{5 if header else 4}: {problem}"


def test_a_file_without_line_ends_is_refused_before_it_fills_the_memory(tmp_path):
    told = refusal(write(tmp_path, "the 1 2 3 " * (BLOCK_BYTES // 5)))
    assert told.startswith(f":1: has no line end in {BLOCK_BYTES} bytes;")


@pytest.mark.parametrize(
    "content", ["Once upon a time,\nthere was a cat.\n", "the\t1\t2\t3\n", "{}\n", "\n"]
)
def test_a_text_that_holds_no_vectors_is_refused(tmp_path, content):
    assert refusal(write(tmp_path, content), size=8).startswith(
        ":1: is no token with numbers after it"
    )


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        (
            {"level": "bpe", "vocabulary_size": 258},
            "level bpe; vectors of words need tokenizer.level=word",
        ),
        (
            {},
            "which is of words with capital letters; if the file has none, set tokenizer.lowercase=true",
        ),
        ({"lowercase": True}, "give vectors of the language that the text is in"),
    ],
)
def test_a_file_with_nothing_of_the_vocabulary_is_refused_with_what_may_not_fit(
    tmp_path, fields, remedy
):
    path = write(tmp_path, "</s> 1 2 3\nhund 1 2 3\nkatze 4 5 6\n")
    told = refusal(path, learn("The Cat", **fields))
    assert told.startswith(": has no vector of the vocabulary, ")
    assert told.endswith(remedy)
