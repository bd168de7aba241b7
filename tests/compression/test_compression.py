"""A file made smaller by a model comes back byte by byte, at the size of the model's cross-entropy."""

import copy
import subprocess
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest
import torch
from conftest import RECORDS, TEXT
from hypothesis import given
from hypothesis import strategies as st

from charlm.api import load
from charlm.compression import coder, container
from charlm.compression.container import (
    compress,
    cross_entropy_bits,
    decompress,
    measure_compression,
    settings_of,
)
from charlm.compression.literals import Alphabet, to_bytes, to_tokens
from charlm.config.schema import Model
from charlm.config.schema import Tokenizer as TokenizerSection
from charlm.data.tokenizer import EOS, UNK, learn_tokenizer
from charlm.errors import CharlmError, CheckpointError
from charlm.model.language_model import LanguageModel

LEARNT = "the cat sat on the mat.\nIt's 10 o'clock, né?\n the <unk> dog \n"
SECTIONS = {
    "char": {"level": "char"},
    "byte": {"level": "byte"},
    "word": {"level": "word"},
    "spaces": {"level": "word", "words": "whitespace"},
    "bpe": {"level": "bpe", "vocabulary_size": 300},
    "lines": {"level": "char", "eos": "line"},
    "sentences": {"level": "word", "eos": "sentence"},
    "lowercase": {"level": "word", "lowercase": True},
    "lowercase bpe": {
        "level": "bpe",
        "vocabulary_size": 300,
        "lowercase": True,
        "normalization": "nfkd",
    },
    "nfd": {"level": "char", "normalization": "nfd"},
}
ODD = [
    "\r\n",
    "\r",
    "\n",
    "\n\n",
    " ",
    "  ",
    "\0",
    "\ufeff",
    "é",
    "e\u0301",
    "\u2028",
    "<UNK>",
    "<EOS>",
    "<unk>",
    "。 ",
    "The cat ",
    " the cat \n",
    "sat. On",
    "\U0001f600",
    "\x1c",
    "\t",
]
TEXTS = st.lists(st.sampled_from(ODD) | st.text(max_size=8), max_size=12).map(
    lambda parts: "".join(parts).encode()
)
ANY_BYTES = (
    TEXTS | st.binary(max_size=40) | st.tuples(TEXTS, st.binary(max_size=6), TEXTS).map(b"".join)
)


def alphabet(name: str, mode: str = "stream", separator: str = "") -> Alphabet:
    return Alphabet(learn_tokenizer([LEARNT], TokenizerSection(**SECTIONS[name])), mode, separator)


def network(
    alphabet: Alphabet, *, direction: str = "forward", kind: str = "lstm", seed: int = 1
) -> LanguageModel:
    torch.manual_seed(seed)
    section = Model(hidden_size=8, embedding_size=4, direction=direction, cell={"kind": kind})
    model = LanguageModel(section, alphabet.tokenizer.vocabulary_size).eval()
    with torch.no_grad():
        model.projection.weight *= 4
    return model


ALPHABETS = {
    (name, mode): alphabet(name, mode) for name in SECTIONS for mode in ("stream", "records")
}
ALPHABETS["char", "documents"] = alphabet("char", separator="\n\n")
NETWORKS = {
    key: network(each, direction=direction)
    for (key, each), direction in zip(
        ALPHABETS.items(), ["forward", "backward", "both"] * 7, strict=True
    )
}


@given(st.sampled_from(sorted(ALPHABETS)), ANY_BYTES)
def test_tokens_and_literals_give_back_any_bytes(key, data):
    coded = to_tokens(data, ALPHABETS[key])
    assert coded is not None
    assert to_bytes(coded, ALPHABETS[key], len(data)) == data
    assert (coded.ids == UNK).sum() == len(coded.literals)


@given(st.sampled_from(sorted(ALPHABETS)), ANY_BYTES, st.integers(1, 5))
def test_a_compressed_file_gives_back_any_bytes(key, data, streams):
    compressed = compress(data, NETWORKS[key], ALPHABETS[key], streams=streams)
    assert decompress(compressed, NETWORKS[key], ALPHABETS[key]) == data


@pytest.mark.parametrize("kind", ["elman", "gru", "nested_lstm", "mogrifier_lstm", "min_gru"])
def test_any_recurrence_can_code(kind):
    chosen = ALPHABETS["char", "stream"]
    model, data = network(chosen, kind=kind), LEARNT.encode() * 3
    assert decompress(compress(data, model, chosen, streams=2), model, chosen) == data


@pytest.mark.parametrize("data", [b"", b"t", b"\xff", "\u4e00".encode(), b"\0"])
def test_nothing_and_a_single_byte_come_back(data):
    for key in ALPHABETS:
        assert (
            decompress(compress(data, NETWORKS[key], ALPHABETS[key]), NETWORKS[key], ALPHABETS[key])
            == data
        )


def test_text_that_the_tokenizer_knows_has_the_tokens_of_the_score():
    text = "the cat sat on the mat.\n"
    for name in ("char", "byte", "word", "bpe"):
        each = ALPHABETS[name, "stream"]
        coded = to_tokens(text.encode() * 2, each)
        np.testing.assert_array_equal(coded.ids, each.tokenizer.encode(text * 2))
        assert coded.literals == []


def test_ends_of_lines_records_and_documents_are_eos_by_hand():
    def ids(name, mode, data, separator=""):
        coded = to_tokens(data, alphabet(name, mode, separator))
        assert coded.literals == []
        return "".join("|" if index == EOS else "." for index in coded.ids), coded.variant

    assert ids("char", "records", b"cat\nsat\n") == ("...|...|", False)
    assert ids("char", "records", b"cat\r\nsat\r\n") == ("...|...|", True)
    assert ids("char", "records", b"cat\n\nsat") == ("...||...|", False)
    assert ids("lines", "stream", b"cat\nsat") == ("....|...", False)
    assert ids("sentences", "stream", b"the mat. the cat") == ("....|..", False)
    assert ids("spaces", "stream", b"the cat\n\nsat") == ("..||.", False)
    assert ids("spaces", "stream", b" the cat \n \n sat \n") == ("..||.|", True)
    assert ids("char", "stream", b"cat\n\nsat", "\n\n") == ("...|...", False)


def test_what_has_no_token_is_a_literal_by_hand():
    coded = to_tokens("the b\u00fcg\xa0".encode() + b"\xff\xfe cat", ALPHABETS["char", "stream"])
    assert coded.literals == [b"b", "ü".encode(), "\xa0".encode(), b"\xff", b"\xfe"]
    coded = to_tokens(b"the Cat\xff sat", ALPHABETS["lowercase", "stream"])
    assert coded.literals == [b" Cat", b"\xff"]
    coded = to_tokens(b"the <unk>  cat\n", ALPHABETS["spaces", "stream"])
    assert coded.literals == [b"<unk>", b""]


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_the_size_is_the_cross_entropy_within_half_a_percent_and_a_header(request, mode):
    run = load(
        request.getfixturevalue("trained" if mode == "stream" else "trained_records"), device="cpu"
    )
    data = (TEXT[:3600] if mode == "stream" else RECORDS * 4).encode()
    result, compressed = run.measure_compression(data)
    size = 8 * len(compressed)
    assert result.cross_entropy_bits <= size <= 1.005 * result.cross_entropy_bits + 8 * 90
    assert result.overhead == pytest.approx(size / result.cross_entropy_bits - 1)
    assert result.bits_per_byte == pytest.approx(size / len(data))
    assert run.decompress(compressed) == data
    # Without the header it holds for few bytes too.
    few, _ = run.measure_compression(data[:700], streams=1)
    header = len(run.compress(data[:1])) - 8
    assert few.bytes_out - header <= few.cross_entropy_bits / 8 * 1.005 + 8


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("mode", ["stream", "records"])
def test_in_any_direction_the_size_is_the_cross_entropy(direction, mode):
    chosen = ALPHABETS["char", mode]
    model, data = (
        network(chosen, direction=direction),
        (LEARNT + "mat\ncat on the mat, dog on the cat\n").encode() * 20,
    )
    with torch.no_grad():
        model.projection.weight *= 4  # So that another order or another state would cost many bits.
    header = len(compress(data[:1], model, chosen)) - 4
    size = 8 * (len(compress(data, model, chosen, streams=1)) - header)
    bits = cross_entropy_bits(to_tokens(data, chosen).ids, model, chosen)
    assert size == pytest.approx(bits, rel=0.001, abs=8 * 8)


def test_the_cross_entropy_is_the_perplexity_commands(trained):
    run = load(trained, device="cpu")
    chosen = Alphabet(run.tokenizer, "stream")
    bits = cross_entropy_bits(to_tokens(TEXT.encode(), chosen).ids, run.model, chosen)
    score = run.perplexity(TEXT)
    # Less the <EOS> that the score counts at the text's end.
    assert bits == pytest.approx(score.bits_per_character * len(TEXT), rel=0.003)


def test_more_streams_cost_bits_and_by_default_few(trained):
    run = load(trained, device="cpu")
    data = TEXT[:8200].encode()
    few, many = run.compress(data), run.compress(data, streams=60)
    assert len(few) < len(many) and settings_of(many)["streams"] == 60
    assert settings_of(few)["streams"] == len(data) // 4096 == 2


def test_unknown_characters_cost_their_own_and_the_rest_costs_what_it_did(trained):
    run = load(trained, device="cpu")
    plain, odd = TEXT.encode()[:800], TEXT[:800].replace("owl", "öwl").encode() + b"\xff\0"
    result, compressed = run.measure_compression(odd)
    assert result.unknown == odd.count("ö".encode()) + 2 and result.literal_bytes > 0
    assert run.decompress(compressed) == odd
    assert run.measure_compression(plain)[0].literal_bytes == 0


def test_a_file_of_which_the_model_knows_nothing_is_stored(trained):
    run = load(trained, device="cpu")
    data = bytes(range(128, 256)) * 8
    result, compressed = run.measure_compression(data)
    assert result.settings["method"] == "stored" and result.cross_entropy_bits is None
    assert len(compressed) < 200 and run.decompress(compressed) == data


def test_another_model_or_tokenizer_is_refused_in_one_line():
    chosen = ALPHABETS["char", "stream"]
    model, other = network(chosen), network(chosen, seed=2)
    compressed = compress(LEARNT.encode(), model, chosen)
    with pytest.raises(
        CheckpointError,
        match=r"^a\.charlm: was compressed with another model \(weights \w{8}; here ",
    ):
        decompress(compressed, other, chosen, name="a.charlm")
    backward = copy.deepcopy(model)
    backward.direction = "backward"
    with pytest.raises(CheckpointError, match="with another model"):
        decompress(compressed, backward, chosen)
    with pytest.raises(
        CheckpointError, match=r"^the file: was compressed with another tokenizer \(\w{8}; [^\n]+$"
    ):
        decompress(compressed, model, ALPHABETS["char", "records"])


def test_another_torch_or_other_arithmetic_is_refused_in_one_line(monkeypatch):
    chosen = ALPHABETS["char", "stream"]
    model = network(chosen)
    compressed = compress(LEARNT.encode(), model, chosen)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        with pytest.raises(
            CheckpointError,
            match=r"torch (\S+), and this is 9\.9\.9, [^\n]+: pip install torch==\1$",
        ):
            decompress(compressed, model, chosen)
    exact = coder._probabilities
    monkeypatch.setattr(coder, "_probabilities", lambda logits: exact(logits * (1 + 1e-6)))
    with pytest.raises(
        CheckpointError, match=r"this machine computes other numbers [^\n]+; decompress it there$"
    ):
        decompress(compressed, model, chosen)


def damaged_files() -> list[bytes]:
    chosen = ALPHABETS["char", "stream"]
    whole = compress("the cät".encode() * 3, NETWORKS["char", "stream"], chosen)
    flipped = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    return flipped + [whole[:size] for size in range(len(whole))] + [whole + b"\0"]


def test_a_flipped_byte_or_a_cut_is_told_in_one_line():
    chosen = ALPHABETS["char", "stream"]
    for data in damaged_files():
        with pytest.raises(
            CharlmError, match=r"^a\.charlm: [^\n]+; [^\n]+$|is no file that charlm compress made$"
        ):
            decompress(data, NETWORKS["char", "stream"], chosen, name="a.charlm")


@given(st.data())
def test_even_a_crafted_file_ends_in_one_line(data):
    # The checksum is made good again: what the reader meets then is any number in any place.
    chosen = ALPHABETS["char", "stream"]
    body = bytearray(compress(b"the cat", NETWORKS["char", "stream"], chosen)[11:])
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    crafted = container._sealed([bytes(body)])
    try:
        decompress(crafted, NETWORKS["char", "stream"], chosen)
    except CharlmError as error:
        assert "\n" not in str(error)


def test_words_that_no_encoder_writes_are_told_in_one_line():
    chosen = ALPHABETS["char", "stream"]
    body = compress(b"the cat sat on the mat" * 3, NETWORKS["char", "stream"], chosen)[11:]
    for at in (-37, -34, -33):  # Of 768 such words, constriction asserts against nine.
        for byte in range(256):
            crafted = body[:at] + bytes([byte]) + body[at + 1 :]
            with suppress(CharlmError):
                decompress(container._sealed([crafted]), NETWORKS["char", "stream"], chosen)


def test_a_claimed_length_allocates_nothing():
    chosen = ALPHABETS["char", "stream"]
    original = container._number(2**62) + bytes(8)
    stored = container._sealed([b"\0", original, container._deflate(b"x")])
    with pytest.raises(CharlmError, match="its checksum differs"):
        decompress(stored, network(chosen), chosen)
    facts = [container._sized(b"") for _ in container._FACTS]
    numbers = [container._number(number) for number in (0, 2**40, 2**50, 2**60)]
    with pytest.raises(CharlmError, match="damaged"):
        decompress(container._sealed([b"\1", original, *facts, *numbers]), network(chosen), chosen)


def test_what_the_process_did_before_does_not_matter_and_is_as_it_was_after():
    chosen = ALPHABETS["char", "stream"]
    model, data = network(chosen), LEARNT.encode() * 4
    expected = compress(data, model, chosen, streams=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.set_flush_denormal(True)
        torch.set_float32_matmul_precision("medium")
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert compress(data, model, chosen, streams=2) == expected
        assert (
            torch.get_num_threads() == 2
            and torch.get_float32_matmul_precision() == "medium"
            and model.training
        )
        assert float(torch.tensor([1e-38]) / 2) == 0.0
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision("highest")


def test_two_processes_agree(trained, tmp_path):
    code = "import sys; from pathlib import Path; from charlm.api import load\n"
    code += "Path(sys.argv[2]).write_bytes(load(sys.argv[1], device='cpu').compress(Path(sys.argv[3]).read_bytes()))"
    text, written = tmp_path / "text", tmp_path / "written"
    text.write_text(TEXT[:1200])
    subprocess.run([sys.executable, "-c", code, str(trained), str(written), str(text)], check=True)
    run = load(trained, device="cpu")
    assert written.read_bytes() == run.compress(TEXT[:1200].encode())
    assert run.decompress(written.read_bytes()) == TEXT[:1200].encode()


def test_a_diverged_model_is_told_in_one_line():
    chosen = ALPHABETS["char", "stream"]
    model = network(chosen)
    with torch.no_grad():
        model.projection.bias[3] = torch.nan
    with pytest.raises(
        CheckpointError, match=r"^the model's probabilities are not all finite [^\n]+$"
    ):
        compress(LEARNT.encode(), model, chosen)


def test_without_constriction_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    chosen = ALPHABETS["char", "stream"]
    with pytest.raises(CharlmError, match=r"needs constriction, .*: pip install 'charlm\[eval\]'$"):
        compress(b"the cat", network(chosen), chosen)


def test_progress_is_told_to_the_end():
    chosen, told = ALPHABETS["char", "stream"], []
    compress(
        b"the cat sat",
        network(chosen),
        chosen,
        streams=2,
        report=lambda done, total: told.append((done, total)),
    )
    assert told == [(2, 11), (4, 11), (6, 11), (8, 11), (10, 11), (11, 11)]


def test_measure_compares_with_xz_and_bzip2():
    chosen = ALPHABETS["byte", "stream"]
    result, compressed = measure_compression(b"the cat " * 50, network(chosen), chosen)
    assert (result.bytes_in, result.bytes_out) == (400, len(compressed))
    assert result.ratio_to_lzma == len(compressed) / result.lzma_bytes
    assert result.to_json()["cross_entropy_bits"] == cross_entropy_bits(
        to_tokens(b"the cat " * 50, chosen).ids, network(chosen), chosen
    )
    assert zlib.crc32(compressed[11:]) == int.from_bytes(compressed[7:11], "little")
