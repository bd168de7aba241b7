"""The score of a text, with all that the score depends on."""

import gzip
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import small_config
from small_models import CPU, VOCABULARY, log_p_at_once, make_model

import charlm
from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.options import ScoringOptions
from charlm.evaluation.perplexity import Perplexity, score_text
from charlm.evaluation.static_model import StaticModel
from charlm.model.language_model import LanguageModel
from charlm.training.loss import Score


def score_of(
    model: LanguageModel, ids: list[int], *, mode: str = "stream", streams: int = 1
) -> Score:
    return score_text(StaticModel(model, mode, CPU), np.array(ids, dtype=np.uint8), streams=streams)


def random_text(tokens: int) -> list[int]:
    return np.random.default_rng(1).integers(0, VOCABULARY, tokens).tolist()


def test_uniform_model_over_eight_tokens_scores_three_bits():
    for mode in ("stream", "records"):
        score = score_of(make_model(sharpness=0), [2, 3, EOS, 7, 7, 5, 4, EOS], mode=mode)
        assert score.tokens == 8
        assert score.bits_per(8) == pytest.approx(3, rel=1e-6), mode


def test_bits_per_character_by_hand():
    # Ten tokens of three bits each for a text of 40 characters: 30 / 40.
    score = score_of(make_model(sharpness=0), [2, 3, 4, 5, 6, 7, 2, 3, 4, EOS])
    assert score.bits_per(40) == pytest.approx(0.75, rel=1e-6)


def test_the_state_is_carried_through_a_text_longer_than_a_window():
    ids = random_text(1100)
    expected = -log_p_at_once(make_model(), np.array(ids)).sum()
    assert score_of(make_model(), ids).nats == pytest.approx(expected, rel=1e-5)


def test_the_state_is_reset_between_records_and_carried_in_a_stream():
    model = make_model()
    first, second = [3, 4, 5, EOS], [6, 7, EOS]
    alone = sum(score_of(model, record).nats for record in (first, second))
    records = score_of(model, first + second, mode="records")
    assert records.nats == pytest.approx(alone, rel=1e-6)
    assert score_of(model, first + second).nats != pytest.approx(alone, rel=1e-3)


def test_several_streams_predict_each_token_once_and_nearly_as_well():
    ids = random_text(1500)
    exact, fast = (score_of(make_model(), ids, streams=streams) for streams in (1, 4))
    assert fast.tokens == exact.tokens == 1500
    assert fast.nats == pytest.approx(exact.nats, rel=1e-5)


def test_a_text_without_tokens_is_refused():
    for mode in ("stream", "records"):
        with pytest.raises(CorpusError, match=r"^the text to score has no token; [^\n]+$"):
            score_of(make_model(), [], mode=mode)


def test_each_option_out_of_range_and_each_conflict_names_the_option():
    for option, value in {
        "streams": 0,
        "precision": "fp16",
        "temperature": 0.0,
        "mix_ngram": 0,
        "segment": 0,
        "fit_tokens": -1,
    }.items():
        with pytest.raises(OptionError, match=rf"^{option}: must be [^\n]+, got {value!r}$"):
            ScoringOptions(**{option: value})
    for temperature in (math.nan, math.inf, -1.0, "high"):
        with pytest.raises(OptionError, match=r"^temperature: must be a (finite )?number"):
            ScoringOptions(temperature=temperature)
    with pytest.raises(OptionError, match=r"^paths: cannot be combined with text; leave one out$"):
        ScoringOptions("a text", paths=["a.txt"])
    with pytest.raises(OptionError, match=r"^segment: has no effect without dynamic$"):
        ScoringOptions(segment=5)
    problem = r"^fit_tokens: has no effect without dynamic, cache or mix_ngram$"
    with pytest.raises(OptionError, match=problem):
        ScoringOptions(temperature="fit", fit_tokens=5)
    assert ScoringOptions(temperature="fit").adaptation.is_static


def test_a_score_becomes_json_with_all_its_fields():
    score = Perplexity(
        loss_nats=1.0,
        perplexity=math.e,
        bits_per_character=1.4,
        bits_per_byte=1.3,
        accuracy=0.5,
        unknown_share=0.0,
        unigram_perplexity=9.0,
        tokens=10,
        characters=12,
        bytes=13,
        seconds=0.1,
        settings={"level": "char", "seed": 1},
    )
    data = json.loads(json.dumps(score.to_json()))
    assert data["loss_nats"] == 1.0
    assert data["settings"] == {"level": "char", "seed": 1}
    names = "perplexity bits_per_character bits_per_byte tokens characters bytes"
    assert set(names.split()) <= set(data)


def test_small_texts_are_scored_although_the_cache_cannot_be_written(
    trained, text_file, tmp_path, monkeypatch
):
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text_file.read_bytes()))
    run = charlm.load(trained)
    expected = run.perplexity(paths=[text_file])
    own = run.perplexity()
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "file" / "cache"))
    for path in (text_file, packed, "-"):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text_file.read_bytes())))
        score = run.perplexity(paths=[path])
        assert score.loss_nats == expected.loss_nats, path
        assert (score.tokens, score.characters) == (expected.tokens, expected.characters), path
    assert run.perplexity().loss_nats == own.loss_nats
    with pytest.raises(CharlmError, match=r"cache.*cannot be written: .*; set CHARLM_CACHE to"):
        charlm.train(small_config(packed), out=tmp_path / "run")


def test_records_of_a_packed_corpus_are_scored_although_the_cache_cannot_be_written(
    text_file, tmp_path, monkeypatch
):
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text_file.read_bytes()))
    config = small_config(packed, "corpus.mode=records", "training.steps=2")
    run = charlm.train(config, out=tmp_path / "run")
    own = run.perplexity()
    (tmp_path / "file").touch()
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "file" / "cache"))
    score = run.perplexity()
    assert (score.loss_nats, score.settings) == (own.loss_nats, own.settings)


def test_nothing_is_fitted_without_a_validation_split(text_file, tmp_path):
    config = small_config(text_file, "corpus.valid_share=0", "training.steps=2")
    run = charlm.train(config, out=tmp_path / "run")
    for options in ({"cache": True}, {"temperature": "fit"}):
        with pytest.raises(CorpusError, match="no validation split to fit on; score without"):
            run.perplexity("The cat sat.", **options)
