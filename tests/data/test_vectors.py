"""Pretrained vectors: every token gets its vector, and a bad file is an error with its line."""

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.data.vectors import Vectors, read_vectors
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CorpusError
from charlm.storage.memory_maps import BLOCK_BYTES

GLOVE = "the 1 2 3\ncat 4 -.5 6e-1\nzebra 7 8 9\n"


def learn(text: str = "the cat and the dog", **fields: object) -> Tokenizer:
    return learn_tokenizer([text], Section(**{"level": "word"} | fields))


def write(folder: Path, content: str | bytes, name: str = "vectors.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def vectors_by_token(vectors: Vectors, tokenizer: Tokenizer) -> dict[str, list[float]]:
    """Return the vectors by the text of their tokens; all other rows must be zeros."""
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
    return vectors_by_token(read_vectors(write(folder, content), tokenizer, size=size), tokenizer)


def refusal(path: Path, tokenizer: Tokenizer | None = None, *, size: int = 3) -> str:
    """Return the one-line error about a file, without its path."""
    with pytest.raises(CorpusError, match=f"^{re.escape(str(path))}") as caught:
        read_vectors(path, tokenizer or learn(), size=size)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_words_get_their_vectors_from_a_glove_file_and_others_are_zeros(tmp_path):
    tokenizer = learn()
    vectors = read_vectors(write(tmp_path, GLOVE), tokenizer, size=3)
    assert vectors.rows.dtype == np.float32
    assert vectors.rows.shape == (tokenizer.vocabulary_size, 3)
    assert vectors_by_token(vectors, tokenizer) == {
        "the": [1, 2, 3],
        " the": [1, 2, 3],
        " cat": [4, -0.5, pytest.approx(0.6)],
    }


def test_the_fraction_found_leaves_out_eos_and_unk(tmp_path):
    content = "</s> 1 1 1\n<unk> 2 2 2\n" + GLOVE
    vectors = read_vectors(write(tmp_path, content), learn(), size=3)
    assert vectors.fraction_found == 3 / 5  # "the", " the", " cat"; not " and", " dog".


def test_a_word2vec_file_equals_a_glove_file_after_its_first_line(tmp_path):
    tokenizer = learn()
    assert read(tmp_path, "3 3\n" + GLOVE, tokenizer) == read(tmp_path, GLOVE, tokenizer)


def test_spaces_and_carriage_returns_at_the_end_of_a_line_are_ignored(tmp_path):
    tokenizer = learn()
    untidy = "\ufeff3 3\r\n" + GLOVE.replace("\n", " \r\n")
    assert read(tmp_path, untidy, tokenizer) == read(tmp_path, GLOVE, tokenizer)
    assert read(tmp_path, GLOVE.removesuffix("\n"), tokenizer) == read(tmp_path, GLOVE, tokenizer)


def test_a_gzip_file_is_recognized_by_its_first_bytes(tmp_path):
    tokenizer = learn()
    expected = read(tmp_path, GLOVE, tokenizer)
    for name in ("vectors.txt.gz", "vectors.txt"):
        vectors = read_vectors(
            write(tmp_path, gzip.compress(GLOVE.encode()), name), tokenizer, size=3
        )
        assert vectors_by_token(vectors, tokenizer) == expected, name


def test_a_plain_file_may_have_the_suffix_gz(tmp_path):
    assert read_vectors(write(tmp_path, GLOVE, "vectors.gz"), learn(), size=3).found.any()


def test_a_token_may_contain_spaces_because_the_numbers_are_the_last_fields(tmp_path):
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


def test_a_space_is_a_character_with_a_vector(tmp_path):
    tokenizer = learn("é a", level="char")
    assert read(tmp_path, "é 1 2 3\n  4 5 6\nb 7 8 9\n", tokenizer) == {
        "é": [1, 2, 3],
        " ": [4, 5, 6],
    }


def test_a_subword_that_is_an_incomplete_character_has_no_vector(tmp_path):
    tokenizer = learn("é", level="bpe", vocabulary_size=258)
    assert read(tmp_path, "é 1 2 3\na 4 5 6\n\ufffd 7 8 9\n", tokenizer) == {"a": [4, 5, 6]}


def test_eos_and_unk_have_the_names_that_glove_files_use(tmp_path):
    tokenizer = learn()
    others = "unk 0 0 1\n<UNK> 0 0 1\n<EOS> 0 0 1\n</S> 0 0 1\n"
    assert (
        not read_vectors(write(tmp_path, others + GLOVE), tokenizer, size=3).found[[EOS, UNK]].any()
    )
    found = read(tmp_path, others + "</s> 1 1 1\n<unk> 2 2 2\n" + GLOVE, tokenizer)
    assert (found["<EOS>"], found["<UNK>"]) == ([1, 1, 1], [2, 2, 2])


def test_the_first_vector_of_a_repeated_token_counts(tmp_path):
    assert read(tmp_path, "cat 1 2 3\ncat 4 5 6\n", learn()) == {" cat": [1, 2, 3]}


def test_words_are_compared_with_their_case(tmp_path):
    assert read(tmp_path, "The 1 2 3\ncat 4 5 6\n", learn()) == {" cat": [4, 5, 6]}


def test_more_vectors_than_the_first_line_announces_are_read(tmp_path):
    assert read(tmp_path, "1 3\n" + GLOVE, learn())[" cat"][0] == 4


def test_vectors_of_another_size_are_an_error_with_the_setting_for_them(tmp_path):
    for content in (GLOVE, "3 3\n" + GLOVE):
        for size in (2, 4):
            message = refusal(write(tmp_path, content), size=size)
            problem = f"has 3 numbers per line, but model.embedding_size is {size}"
            assert message == f":1: {problem}; set model.embedding_size=3", content


def test_a_wrong_size_in_the_first_line_is_an_error_on_the_second(tmp_path):
    assert refusal(write(tmp_path, "3 2\n" + GLOVE), size=2).startswith(
        ":2: has 3 numbers per line"
    )


def test_a_number_in_a_token_does_not_count_as_part_of_the_vector(tmp_path):
    assert refusal(write(tmp_path, "7 1 2 3\n"), size=4).startswith(":1: has 3 numbers per line")
    assert refusal(write(tmp_path, ". 7 . 1 2 3\n"), size=4).startswith(
        ":1: has 3 numbers per line"
    )


def test_a_line_with_too_few_numbers_is_an_error_whether_or_not_its_token_is_known(tmp_path):
    for line in ("dog 1 2", "zebra 1 2", "", "dog"):
        message = refusal(write(tmp_path, GLOVE + line + "\n"))
        problem = f"has {line.count(' ')} numbers instead of 3: the file is damaged or truncated;"
        assert message.startswith(f":4: {problem}"), line


def test_a_known_token_with_a_number_that_is_not_finite_is_an_error(tmp_path):
    for number in ("x", "nan", "-inf", "1e39", "0,5", "1.2.3", "é"):
        message = refusal(write(tmp_path, f"{GLOVE}dog 1 {number} 3\n"))
        problem = f"the vector of 'dog' must be finite numbers, got {number!r};"
        assert message.startswith(f":4: {problem}"), number


def test_the_numbers_of_unknown_tokens_are_not_parsed(tmp_path):
    assert [*read(tmp_path, "cat 1 2 3\nzebra x nan 3\n", learn())] == [" cat"]


def test_a_file_with_fewer_vectors_than_announced_is_truncated(tmp_path):
    message = refusal(write(tmp_path, "4 3\n" + GLOVE))
    assert message.startswith(":4: the file is truncated: it has 3 of the 4 vectors")
    assert refusal(write(tmp_path, "5 3\n")).startswith(
        ":1: the file is truncated: it has 0 of the 5 vectors"
    )


def test_a_missing_file_or_a_folder_is_an_error(tmp_path):
    assert refusal(tmp_path / "none.txt").startswith(
        ": cannot be read: No such file or directory; model.vectors must"
    )
    assert refusal(tmp_path).startswith(": cannot be read: Is a directory; model.vectors must")


def test_an_empty_file_is_an_error(tmp_path):
    for content in (b"", gzip.compress(b"")):
        assert refusal(write(tmp_path, content)).startswith(": is empty; model.vectors must name")


def test_a_truncated_or_damaged_gzip_file_is_an_error(tmp_path):
    words = "".join(f"word{index} {index / 7} {index / 11} {index / 13}\n" for index in range(9000))
    whole = gzip.compress(words.encode())
    message = refusal(write(tmp_path, whole[: len(whole) // 2]))
    assert re.match(r":\d{4}: the gzip file is damaged: .*; download it again$", message)
    no_block = whole[:10] + b"\xff" + whole[11:]
    assert ":1: the gzip file is damaged: " in refusal(write(tmp_path, no_block))
    wrong_checksum = whole[:-8] + bytes(8)
    assert ":9001: the gzip file is damaged: " in refusal(
        write(tmp_path, wrong_checksum), learn("word7")
    )


def test_the_binary_format_of_word2vec_is_an_error_with_the_way_to_convert_it(tmp_path):
    for value in (0.1, 0.0):  # The bytes of 0.1 are not UTF-8, those of 0.0 are NUL characters.
        rows = [word + b" " + struct.pack("<3f", value, -value, 2) for word in (b"the", b"cat")]
        message = refusal(write(tmp_path, b"2 3\n" + b"".join(rows)))
        assert message.startswith(":2: is not UTF-8 text: "), value
        assert message.endswith("load_word2vec_format(OLD, binary=True).save_word2vec_format(NEW)")


def test_other_binary_files_are_errors(tmp_path):
    assert "unpack the zip file first" in refusal(write(tmp_path, b"PK\x03\x04\x14\0\0\0"))
    assert refusal(write(tmp_path, b"\x93NUMPY\x01")).startswith(
        ":1: is not UTF-8 text: byte 1 of the line is 0x93"
    )


def test_a_line_that_is_not_utf_8_is_an_error_even_if_its_token_is_unknown(tmp_path):
    for header in ("", "4 3\n"):
        message = refusal(write(tmp_path, (header + GLOVE).encode() + b"caf\xe9 1 2 3\n"))
        assert message == (
            f":{5 if header else 4}: is not UTF-8 text: byte 4 of the line is 0xe9; "
            "convert the file to UTF-8, or remove the line"
        )


def test_a_file_without_line_ends_is_an_error_before_it_fills_the_memory(tmp_path):
    message = refusal(write(tmp_path, "the 1 2 3 " * (BLOCK_BYTES // 5)))
    assert message.startswith(f":1: has no line end in {BLOCK_BYTES} bytes;")


def test_a_text_without_vectors_is_an_error(tmp_path):
    for content in (
        "Once upon a time,\nthere was a cat.\n",
        "the\t1\t2\t3\n",
        "{}\n",
        "\n",
    ):
        message = refusal(write(tmp_path, content), size=8)
        assert message.startswith(":1: is not a token with numbers after it"), content


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"level": "bpe", "vocabulary_size": 258}, "tokenizer.level=word"),
        ({}, "if the file has none, set tokenizer.lowercase=true"),
        ({"lowercase": True}, "use vectors of the language of the text"),
    ],
)
def test_a_file_without_a_vector_of_the_vocabulary_is_an_error_with_the_likely_reason(
    tmp_path, fields, remedy
):
    path = write(tmp_path, "</s> 1 2 3\nhund 1 2 3\nkatze 4 5 6\n")
    message = refusal(path, learn("The Cat", **fields))
    assert message.startswith(": has no vector of the vocabulary; ")
    assert message.endswith(remedy)
