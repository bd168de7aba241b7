"""Methods without a network: by hand, against the command-line compressors' format, and in their order on a text."""

import bz2
import json
import lzma
import math
import zlib

import numpy as np
import pytest
from conftest import TEXT

from charlm.data.tokenizer import EOS
from charlm.errors import CorpusError
from charlm.evaluation.adaptive.ngram import KneserNey
from charlm.evaluation.baselines import Baseline, baselines

TRAIN_BYTES, TEXT_BYTES = TEXT[: len(TEXT) // 2].encode(), TEXT[len(TEXT) // 2 :].encode()


def ids_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


def measure(*, records: bool = False, train_bytes: bytes | None = None) -> dict[str, Baseline]:
    found = baselines(
        ids_of(TRAIN_BYTES),
        ids_of(TEXT_BYTES),
        vocabulary_size=256,
        records=records,
        text_bytes=TEXT_BYTES,
        train_bytes=train_bytes,
    )
    return {baseline.name: baseline for baseline in found}


def test_uniform_over_256_bytes_is_eight_bits():
    uniform = measure()["uniform over the vocabulary"]
    assert uniform.perplexity == pytest.approx(256)
    assert uniform.bits_per_byte == uniform.bits_per_character == pytest.approx(8)


def test_bits_per_character_and_byte_by_hand():
    # Three tokens of two bits stand for "€é", two characters of five bytes.
    ids = np.array([2, 3, EOS])
    found = baselines(ids[:0], ids, vocabulary_size=4, records=False, text_bytes="€é".encode())
    uniform, unigram, n_gram = found[:3]
    for baseline in (uniform, unigram, n_gram):  # Without a training text all are uniform.
        assert baseline.loss_nats == pytest.approx(math.log(4))
        assert baseline.bits_per_character == pytest.approx(3 * 2 / 2)
        assert baseline.bits_per_byte == pytest.approx(3 * 2 / 5)
    compressed = found[-1]
    assert compressed.name == "zlib, level 9, alone"
    size = len(zlib.compress("€é".encode(), 9))
    assert (compressed.bits_per_character, compressed.bits_per_byte) == (8 * size / 2, 8 * size / 5)


def test_unigrams_have_one_added_by_hand():
    # Seen 0, 0, 3 and 1 times in training, so 1, 1, 4 and 2 of eight.
    found = baselines(
        np.array([2, 2, 2, 3]),
        np.array([2, 2, 3, 0]),
        vocabulary_size=4,
        records=False,
        text_bytes=b"x",
    )
    assert found[1].perplexity == pytest.approx((2 * 2 * 4 * 8) ** (1 / 4))


@pytest.mark.parametrize("records", [False, True])
def test_n_grams_are_those_of_five_tokens_and_end_at_records(records):
    train, ids = (np.array(text * 20) for text in ([2, 3, EOS, 2, 4, EOS], [2, 4, EOS, 2, 3, EOS]))
    found = baselines(train, ids, vocabulary_size=5, records=records, text_bytes=b"x")[2]
    model = KneserNey(train, 5, 5, records=records)
    assert found.name == "Kneser-Ney 5-gram"
    assert found.loss_nats == pytest.approx(-model.log_probabilities(ids).mean())
    other = KneserNey(train, 5, 5, records=not records)
    assert found.loss_nats != pytest.approx(-other.log_probabilities(ids).mean(), rel=0.05)


def test_compressors_are_those_of_the_standard_library_at_their_best_and_know_no_tokens():
    found = measure()
    sizes = {
        "lzma, preset 9 extreme, alone": len(
            lzma.compress(TEXT_BYTES, preset=9 | lzma.PRESET_EXTREME)
        ),
        "bz2, level 9, alone": len(bz2.compress(TEXT_BYTES, 9)),
        "zlib, level 9, alone": len(zlib.compress(TEXT_BYTES, 9)),
    }
    assert {name for name in found if found[name].loss_nats is None} == set(sizes)
    for name, size in sizes.items():
        assert found[name].perplexity is None
        assert found[name].bits_per_byte == 8 * size / len(TEXT_BYTES)


def test_lzma_that_has_read_the_training_text_is_told_apart_and_needs_less():
    found = measure(train_bytes=TRAIN_BYTES)
    alone = found["lzma, preset 9 extreme, alone"]
    primed = found["lzma, preset 9 extreme, primed with the training text"]
    assert 0 < primed.bits_per_character < alone.bits_per_character / 2
    assert found.keys() - measure().keys() == {primed.name}


def test_each_method_that_knows_more_needs_fewer_bits():
    found = list(measure().values())
    uniform, unigram, n_gram = (baseline.bits_per_byte for baseline in found[:3])
    assert n_gram < unigram < uniform


def test_a_text_without_tokens_is_told_in_one_line():
    with pytest.raises(CorpusError, match=r"^the text to score has no token; [^\n]+$"):
        baselines(ids_of(b"ab"), ids_of(b""), vocabulary_size=256, records=False, text_bytes=b"")


def test_a_baseline_travels_as_json():
    data = json.loads(json.dumps([baseline.to_json() for baseline in measure().values()]))
    assert {"name", "loss_nats", "perplexity", "bits_per_character", "bits_per_byte"} == set(
        data[0]
    )
