"""Compression: any bytes come back, at the size of the model's cross-entropy."""

import copy
import sys

import numpy as np
import pytest
import torch
from conftest import RECORDS, TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.api import load
from charlm.compression import coder
from charlm.compression.compress import (
    compress,
    cross_entropy_bits,
    decompress,
    measure_compression,
    settings_of,
)
from charlm.compression.container import unpack
from charlm.compression.literals import Alphabet, to_bytes, to_tokens
from charlm.config.model import Model
from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.tokenizer import EOS, UNK
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CharlmError, CheckpointError, OptionError
from charlm.model.language_model import LanguageModel

LEARNED = "the cat sat on the mat.\nIt's 10 o'clock, né?\n the <unk> dog \n"
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
    "\r\n", "\r", "\n", "\n\n", " ", "  ", "\0", "\ufeff", "é", "e\u0301", "\u2028", "<UNK>",
    "<EOS>", "<unk>", "。 ", "The cat ", " the cat \n", "sat. On", "\U0001f600", "\x1c", "\t",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(ODD) | st.text(max_size=8), max_size=12).map(
    lambda parts: "".join(parts).encode()
)
ANY_BYTES = (
    TEXTS | st.binary(max_size=40) | st.tuples(TEXTS, st.binary(max_size=6), TEXTS).map(b"".join)
)


def alphabet(name: str, mode: str = "stream", separator: str = "") -> Alphabet:
    return Alphabet(learn_tokenizer([LEARNED], TokenizerSection(**SECTIONS[name])), mode, separator)


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
CHARACTERS = ALPHABETS["char", "stream"]
MODEL = NETWORKS["char", "stream"]


@given(st.sampled_from(sorted(ALPHABETS)), ANY_BYTES)
def test_tokens_and_literals_give_back_any_bytes(key, data):
    coded = to_tokens(data, ALPHABETS[key])
    assert coded is not None
    assert to_bytes(coded, ALPHABETS[key], len(data)) == data
    assert (coded.ids == UNK).sum() == len(coded.literals)


@settings(max_examples=60)
@given(st.sampled_from(sorted(ALPHABETS)), ANY_BYTES, st.integers(1, 5))
def test_a_compressed_file_gives_back_any_bytes(key, data, streams):
    compressed = compress(data, NETWORKS[key], ALPHABETS[key], streams=streams)
    assert decompress(compressed, NETWORKS[key], ALPHABETS[key]) == data


def test_an_empty_file_and_single_bytes_come_back():
    for key in ALPHABETS:
        for data in (b"", b"t", b"\xff", "\u4e00".encode(), b"\0"):
            compressed = compress(data, NETWORKS[key], ALPHABETS[key])
            assert decompress(compressed, NETWORKS[key], ALPHABETS[key]) == data, (key, data)


def test_every_recurrence_can_code():
    data = LEARNED.encode() * 3
    for kind in ("elman", "gru", "nested_lstm", "mogrifier_lstm", "min_gru", "slstm"):
        model = network(CHARACTERS, kind=kind)
        compressed = compress(data, model, CHARACTERS, streams=2)
        assert decompress(compressed, model, CHARACTERS) == data, kind


def test_text_that_the_tokenizer_knows_has_the_tokens_that_are_scored():
    text = "the cat sat on the mat.\n"
    for name in ("char", "byte", "word", "bpe"):
        tokens = ALPHABETS[name, "stream"]
        coded = to_tokens(text.encode() * 2, tokens)
        np.testing.assert_array_equal(coded.ids, tokens.tokenizer.encode(text * 2))
        assert coded.literals == []


def test_ends_of_lines_records_and_documents_are_eos_by_hand():
    for name, mode, data, separator, expected, is_variant in [
        ("char", "records", b"cat\nsat\n", "", "...|...|", False),
        ("char", "records", b"cat\r\nsat\r\n", "", "...|...|", True),
        ("char", "records", b"cat\n\nsat", "", "...||...|", False),
        ("lines", "stream", b"cat\nsat", "", "....|...", False),
        ("sentences", "stream", b"the mat. the cat", "", "....|..", False),
        ("spaces", "stream", b"the cat\n\nsat", "", "..||.", False),
        ("spaces", "stream", b" the cat \n \n sat \n", "", "..||.|", True),
        ("char", "stream", b"cat\n\nsat", "\n\n", "...|...", False),
    ]:
        coded = to_tokens(data, alphabet(name, mode, separator))
        assert coded.literals == []
        tokens = "".join("|" if token == EOS else "." for token in coded.ids)
        assert (tokens, coded.has_variant_ends) == (expected, is_variant), data


def test_bytes_without_a_token_are_literals_by_hand():
    for name, data, literals in [
        (
            "char",
            "the b\u00fcg\xa0".encode() + b"\xff\xfe cat",
            [b"b", "ü".encode(), "\xa0".encode(), b"\xff", b"\xfe"],
        ),
        ("lowercase", b"the Cat\xff sat", [b" Cat", b"\xff"]),
        ("spaces", b"the <unk>  cat\n", [b"<unk>", b""]),
    ]:
        assert to_tokens(data, ALPHABETS[name, "stream"]).literals == literals, name


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_the_size_is_the_cross_entropy_within_half_a_percent_and_a_header(request, mode):
    folder = request.getfixturevalue("trained" if mode == "stream" else "trained_records")
    run = load(folder, device="cpu")
    data = (TEXT[:3600] if mode == "stream" else RECORDS * 4).encode()
    result, compressed = run.measure_compression(data)
    size = 8 * len(compressed)
    assert result.cross_entropy_bits <= size <= 1.005 * result.cross_entropy_bits + 8 * 90
    assert result.overhead == pytest.approx(size / result.cross_entropy_bits - 1)
    assert result.bits_per_byte == pytest.approx(size / len(data))
    assert run.decompress(compressed) == data
    # Without the header it also holds for few bytes.
    few, _ = run.measure_compression(data[:700], streams=1)
    header = len(run.compress(data[:1])) - 8
    assert few.bytes_out - header <= few.cross_entropy_bits / 8 * 1.005 + 8


def test_the_size_is_the_cross_entropy_in_each_direction():
    data = (LEARNED + "mat\ncat on the mat, dog on the cat\n").encode() * 10
    for mode, direction in [
        ("stream", "forward"),
        ("stream", "backward"),
        ("stream", "both"),
        ("records", "forward"),
        ("records", "backward"),
    ]:
        tokens = ALPHABETS["char", mode]
        model = network(tokens, direction=direction)
        with torch.no_grad():
            model.projection.weight *= 4  # Another order or state would cost many bits.
        header = len(compress(data[:1], model, tokens)) - 4
        bits = cross_entropy_bits(to_tokens(data, tokens).ids, model, tokens)
        # Records cost the same in several streams, as each starts from the initial state.
        for streams in (1, 3) if mode == "records" else (1,):
            size = 8 * (len(compress(data, model, tokens, streams=streams)) - header)
            assert size == pytest.approx(bits, rel=0.001, abs=8 * 8 * streams), (mode, direction)


def test_the_cross_entropy_is_that_of_the_perplexity_command(trained):
    run = load(trained, device="cpu")
    tokens = Alphabet(run.tokenizer, "stream")
    bits = cross_entropy_bits(to_tokens(TEXT.encode(), tokens).ids, run.model, tokens)
    # Perplexity counts one more token, the <EOS> at the end of the text.
    expected = run.perplexity(TEXT).bits_per_character * len(TEXT)
    assert bits == pytest.approx(expected, rel=0.003)


def test_more_streams_cost_bits_and_the_default_is_few(trained):
    run = load(trained, device="cpu")
    data = TEXT[:8200].encode()
    few, many = run.compress(data), run.compress(data, streams=60)
    assert len(few) < len(many)
    assert settings_of(unpack(many, ""))["streams"] == 60
    assert settings_of(unpack(few, ""))["streams"] == len(data) // 4096 == 2


def test_unknown_characters_cost_only_their_literals(trained):
    run = load(trained, device="cpu")
    plain, odd = TEXT.encode()[:800], TEXT[:800].replace("owl", "öwl").encode() + b"\xff\0"
    result, compressed = run.measure_compression(odd)
    assert result.unknown == odd.count("ö".encode()) + 2 and result.literal_bytes > 0
    assert run.decompress(compressed) == odd
    assert run.measure_compression(plain)[0].literal_bytes == 0


def test_a_file_without_known_characters_is_stored(trained):
    run = load(trained, device="cpu")
    data = bytes(range(128, 256)) * 8
    result, compressed = run.measure_compression(data)
    assert result.settings["method"] == "stored" and result.cross_entropy_bits is None
    assert len(compressed) < 200 and run.decompress(compressed) == data


def test_less_than_one_stream_is_refused():
    tokens = alphabet("char")
    for streams in (0, -1):
        with pytest.raises(OptionError, match=f"^streams: must be at least 1, got {streams}$"):
            compress(b"the cat", network(tokens), tokens, streams=streams)


def test_another_model_or_tokenizer_is_refused():
    model, other = network(CHARACTERS), network(CHARACTERS, seed=2)
    compressed = compress(LEARNED.encode(), model, CHARACTERS)
    backward = copy.deepcopy(model)
    backward.direction = "backward"
    for changed in (other, backward):
        with pytest.raises(
            CheckpointError,
            match=r"^a\.charlm: was compressed with another model \(weights \w{8}, ",
        ):
            decompress(compressed, changed, CHARACTERS, name="a.charlm")
    with pytest.raises(
        CheckpointError, match=r"^the file: was compressed with another tokenizer \(\w{8}, [^\n]+$"
    ):
        decompress(compressed, model, ALPHABETS["char", "records"])


def test_another_torch_or_other_arithmetic_is_refused(monkeypatch):
    compressed = compress(LEARNED.encode(), MODEL, CHARACTERS)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9.9")
        with pytest.raises(
            CheckpointError, match=r"torch (\S+), but this is torch 9\.9\.9, .*: pip .* torch==\1$"
        ):
            decompress(compressed, MODEL, CHARACTERS)
    exact = coder._probabilities
    monkeypatch.setattr(coder, "_probabilities", lambda logits: exact(logits * (1 + 1e-6)))
    with pytest.raises(
        CheckpointError, match=r"this machine computes other numbers [^\n]+; decompress it there$"
    ):
        decompress(compressed, MODEL, CHARACTERS)


def test_settings_of_the_process_do_not_matter_and_are_restored():
    data = LEARNED.encode() * 4
    model = network(CHARACTERS)
    expected = compress(data, model, CHARACTERS, streams=2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        torch.set_flush_denormal(True)
        torch.set_float32_matmul_precision("medium")
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert compress(data, model, CHARACTERS, streams=2) == expected
        assert torch.get_num_threads() == 2
        assert torch.get_float32_matmul_precision() == "medium"
        assert model.training
        assert float(torch.tensor([1e-38]) / 2) == 0.0
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        torch.set_float32_matmul_precision("highest")


def test_a_diverged_model_is_refused():
    model = network(CHARACTERS)
    with torch.no_grad():
        model.projection.bias[3] = torch.nan
    with pytest.raises(
        CheckpointError, match=r"^the model's probabilities are not all finite [^\n]+$"
    ):
        compress(LEARNED.encode(), model, CHARACTERS)


def test_without_constriction_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(
        CharlmError, match=r"needs constriction, .*: pip install 'charlm-rnn\[eval\]'$"
    ):
        compress(b"the cat", MODEL, CHARACTERS)


def test_progress_is_reported_after_each_step():
    reports = []
    compress(
        b"the cat sat",
        MODEL,
        CHARACTERS,
        streams=2,
        report=lambda done, total: reports.append((done, total)),
    )
    assert reports == [(2, 11), (4, 11), (6, 11), (8, 11), (10, 11), (11, 11)]


def test_the_size_is_compared_with_xz_and_bzip2():
    tokens = ALPHABETS["byte", "stream"]
    data = b"the cat " * 50
    result, compressed = measure_compression(data, network(tokens), tokens)
    assert (result.bytes_in, result.bytes_out) == (400, len(compressed))
    assert result.ratio_to_lzma == len(compressed) / result.lzma_bytes
    bits = cross_entropy_bits(to_tokens(data, tokens).ids, network(tokens), tokens)
    assert result.to_json()["cross_entropy_bits"] == bits


def test_no_file_becomes_larger_than_itself_and_a_header():
    random = np.random.default_rng(1)
    noise = random.integers(0, 256, 1000, dtype=np.uint8).tobytes()
    letters = bytes(random.choice(list(b"thecasonm. '10do?dg"), 1000).astype(np.uint8))
    for key in [("char", "stream"), ("byte", "stream"), ("word", "records"), ("bpe", "stream")]:
        for data in (noise, letters, b"\xff", b"q"):
            compressed = compress(data, NETWORKS[key], ALPHABETS[key])
            assert len(compressed) <= len(data) + 110, (key, data[:9])
            assert decompress(compressed, NETWORKS[key], ALPHABETS[key]) == data
    stored = compress(noise, MODEL, CHARACTERS)
    assert len(stored) == len(noise) + 22
    assert settings_of(unpack(stored, ""))["method"] == "stored"
