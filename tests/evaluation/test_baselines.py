"""Methods without a network: by hand, against standard compressors, and their order on a text."""

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
from charlm.evaluation.baselines import Baseline, score_baselines, unigram_loss_nats

TRAIN_BYTES, TEXT_BYTES = TEXT[: len(TEXT) // 2].encode(), TEXT[len(TEXT) // 2 :].encode()


def ids_of(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8)


def baselines_of_text(train_bytes: bytes | None = None) -> dict[str, Baseline]:
    baselines = score_baselines(
        ids_of(TRAIN_BYTES),
        ids_of(TEXT_BYTES),
        vocabulary_size=256,
        records=False,
        text_bytes=TEXT_BYTES,
        train_bytes=train_bytes,
    )
    return {baseline.name: baseline for baseline in baselines}


def test_uniform_over_256_bytes_is_eight_bits():
    uniform = baselines_of_text()["uniform over the vocabulary"]
    assert uniform.perplexity == pytest.approx(256)
    assert uniform.bits_per_byte == uniform.bits_per_character == pytest.approx(8)


def test_bits_per_character_and_byte_by_hand():
    # Three tokens of two bits represent "€é", two characters of five bytes.
    ids = np.array([2, 3, EOS])
    text = "€é".encode()
    baselines = score_baselines(ids[:0], ids, vocabulary_size=4, records=False, text_bytes=text)
    for baseline in baselines[:3]:  # Without a training text all are uniform.
        assert baseline.loss_nats == pytest.approx(math.log(4))
        assert baseline.bits_per_character == pytest.approx(3 * 2 / 2)
        assert baseline.bits_per_byte == pytest.approx(3 * 2 / 5)
    compressed = baselines[-1]
    size = len(zlib.compress(text, 9))
    assert compressed.name == "zlib, level 9, alone"
    assert (compressed.bits_per_character, compressed.bits_per_byte) == (8 * size / 2, 8 * size / 5)


def test_unigram_counts_have_one_added_by_hand():
    # With one added, the ids were seen 1, 1, 4 and 2 times, of eight.
    ids = np.array([2, 2, 3, 0])
    expected = (2 * 2 * 4 * 8) ** (1 / 4)
    assert math.exp(unigram_loss_nats([0, 0, 3, 1], ids)) == pytest.approx(expected)
    baselines = score_baselines(
        np.array([2, 2, 2, 3]), ids, vocabulary_size=4, records=False, text_bytes=b"x"
    )
    assert baselines[1].perplexity == pytest.approx(expected)


def test_unigrams_without_counts_are_uniform():
    assert math.exp(unigram_loss_nats([0] * 8, np.array([2, 5, 7]))) == pytest.approx(8)
    assert unigram_loss_nats([0] * 8, np.array([], dtype=np.int64)) == 0


def test_ngrams_have_five_tokens_and_end_at_records():
    train, ids = (np.array(text * 20) for text in ([2, 3, EOS, 2, 4, EOS], [2, 4, EOS, 2, 3, EOS]))

    def loss(records: bool) -> float:
        model = KneserNey(train, 5, 5, records=records)
        return -model.log_probabilities(ids).mean()

    for records in (False, True):
        ngram = score_baselines(train, ids, vocabulary_size=5, records=records, text_bytes=b"x")[2]
        assert ngram.name == "Kneser-Ney 5-gram"
        assert ngram.loss_nats == pytest.approx(loss(records))
        assert ngram.loss_nats != pytest.approx(loss(not records), rel=0.05)


def test_compressors_are_the_standard_library_s_at_their_best_and_have_no_tokens():
    baselines = baselines_of_text()
    sizes = {
        "lzma, preset 9 extreme, alone": len(
            lzma.compress(TEXT_BYTES, preset=9 | lzma.PRESET_EXTREME)
        ),
        "bz2, level 9, alone": len(bz2.compress(TEXT_BYTES, 9)),
        "zlib, level 9, alone": len(zlib.compress(TEXT_BYTES, 9)),
    }
    assert {name for name in baselines if baselines[name].loss_nats is None} == set(sizes)
    for name, size in sizes.items():
        assert baselines[name].perplexity is None
        assert baselines[name].bits_per_byte == 8 * size / len(TEXT_BYTES)


def test_lzma_needs_less_after_the_training_text():
    baselines = baselines_of_text(train_bytes=TRAIN_BYTES)
    alone = baselines["lzma, preset 9 extreme, alone"]
    primed = baselines["lzma, preset 9 extreme, primed with the training text"]
    assert 0 < primed.bits_per_character < alone.bits_per_character / 2
    assert baselines.keys() - baselines_of_text().keys() == {primed.name}


def test_a_short_text_after_the_training_text_is_not_free():
    letters = np.random.default_rng(1).integers(97, 123, 1004, dtype=np.uint8).tobytes()
    text = b"#$"
    for length in range(1000, 1004):
        train = letters[:length]
        primed = score_baselines(
            ids_of(train),
            ids_of(text),
            vocabulary_size=256,
            records=False,
            text_bytes=text,
            train_bytes=train,
        )[-1]
        assert primed.bits_per_byte >= 8, length  # Neither byte is in the training text.


def test_each_method_that_uses_more_context_needs_fewer_bits():
    uniform, unigram, ngram, *_ = baselines_of_text().values()
    assert ngram.bits_per_byte < unigram.bits_per_byte < uniform.bits_per_byte


def test_a_text_without_tokens_is_refused():
    with pytest.raises(CorpusError, match=r"^the text to score has no token; [^\n]+$"):
        score_baselines(
            ids_of(b"ab"), ids_of(b""), vocabulary_size=256, records=False, text_bytes=b""
        )


def test_a_baseline_becomes_json_with_all_its_fields():
    data = json.loads(json.dumps([baseline.to_json() for baseline in baselines_of_text().values()]))
    names = {"name", "loss_nats", "perplexity", "bits_per_character", "bits_per_byte"}
    assert set(data[0]) == names | {"fitted_on_the_scored_text"}
