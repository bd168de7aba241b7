"""The task `translate`: encoder, decoder, attention, and what a model writes for a source."""

import io
import json
import sys
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PAIRS, small_config, train_all

from charlm import api as charlm_api
from charlm.api import load, load_translator
from charlm.cli.main import run as charlm
from charlm.config.model import Model
from charlm.config.task import Task
from charlm.data.builders.pairs import written_date, written_dates
from charlm.data.tokenizer import EOS
from charlm.data.windows.window import PADDING
from charlm.errors import CharlmError, CorpusError
from charlm.model.heads import additive_attention
from charlm.model.heads.additive_attention import AdditiveAttention
from charlm.model.heads.token_label import align
from charlm.model.language_model import named_weights
from charlm.model.recurrence import run_stepwise
from charlm.model.translation_model import TranslationModel, split_pairs
from charlm.runs import prepare
from charlm.runs.warm_start import inherit, open_ancestor
from charlm.sampling.completion import complete_ids
from charlm.sampling.options import CompletionOptions
from charlm.training.loss import score

TAB = 2
CPU = torch.device("cpu")
CELLS = [
    "elman", "gru", "lstm", "nested_lstm", "mogrifier_lstm", "min_gru", "min_lstm", "rg_lru", "hgrn",
    "slstm", "bag",
]  # fmt: skip
NGRAMS = {"ngrams": 3, "ngram_buckets": 50}


@pytest.fixture(scope="module")
def run(pairs_files, tmp_path_factory):
    """A run that has learned to write a name backwards and in capital letters."""
    folder = tmp_path_factory.mktemp("translate") / "run"
    overrides = ["model.hidden_size=32", "training.steps=300", "training.learning_rate=2e-2"]
    overrides += ["task.kind=translate", "training.batch_size=16", "model.direction=both"]
    train_all(small_config(pairs_files["translate"], *overrides), folder)
    return load_translator(folder, device="cpu")


def make_translator(attention="additive", **options):
    torch.manual_seed(1)
    section = Model(**{"hidden_size": 8, "embedding_size": 4} | options)
    return TranslationModel(section, 9, Task(kind="translate", attention=attention)).eval()


def random_pairs(*lengths):
    """Return ids of sources and targets of the given lengths."""
    draw = np.random.default_rng(1)
    return [[draw.integers(3, 9, length).tolist() for length in pair] for pair in lengths]


def batch_of(pairs):
    """Return inputs and targets, (time, batch), as the windows of records have them."""
    rows = [[*source, TAB, *target, EOS] for source, target in pairs]
    inputs = torch.full((max(map(len, rows)), len(rows)), EOS)
    targets = torch.full_like(inputs, PADDING)
    for column, ((source, _), row) in enumerate(zip(pairs, rows, strict=True)):
        inputs[: len(row), column] = torch.tensor([EOS, *row[:-1]])
        targets[len(source) + 1 : len(row), column] = torch.tensor(row[len(source) + 1 :])
    return inputs, targets


def nats_of(model, pairs):
    inputs, targets = batch_of(pairs)
    window = SimpleNamespace(inputs=inputs, targets=targets, resets_state=True)
    return score(model, [window], device=CPU, precision=torch.float32)


PAIRS_OF_LENGTHS = random_pairs((1, 3), (9, 1), (4, 6), (9, 2), (2, 7))


def test_sources_and_targets_are_divided_by_hand():
    inputs, targets = batch_of([([3, 4], [5]), ([6], [7, 8])])
    pairs = split_pairs(inputs, targets)
    assert pairs.source.T.tolist() == [[EOS, 3, 4], [EOS, 6, EOS]]
    assert pairs.lengths.tolist() == [3, 2]
    assert pairs.inputs.T.tolist() == [[TAB, 5, EOS], [TAB, 7, 8]]
    assert pairs.targets.T.tolist() == [[5, EOS, PADDING], [7, 8, EOS]]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_a_score_does_not_depend_on_padding(cell, direction):
    for attention, ngrams in (("none", {}), ("additive", {}), ("additive", NGRAMS)):
        options = {"cell": cell, "direction": direction, "num_layers": 2, **ngrams}
        model = make_translator(attention, **options)
        together = nats_of(model, PAIRS_OF_LENGTHS)
        alone = [nats_of(model, [pair]) for pair in PAIRS_OF_LENGTHS]
        assert together.tokens == sum(found.tokens for found in alone) == 24
        assert together.nats == pytest.approx(sum(found.nats for found in alone), rel=1e-5)


def test_a_column_of_padding_changes_nothing_and_has_finite_gradients():
    model = make_translator(direction="both").train()
    inputs, targets = batch_of(PAIRS_OF_LENGTHS[:2])
    padded = [
        torch.cat([inputs, torch.full_like(inputs[:, :1], EOS)], dim=1),
        torch.cat([targets, torch.full_like(targets[:, :1], PADDING)], dim=1),
    ]
    features, _, _ = model.read(inputs, targets)
    more, found, _ = model.read(*padded)
    assert torch.allclose(more[:, :2], features, atol=1e-6)
    assert (found[:, 2] == PADDING).all()
    more.sum().backward()
    assert all(tensor.grad is None or tensor.grad.isfinite().all() for tensor in model.parameters())


def test_encoder_and_decoder_agree_with_their_equations():
    """Step by step, token by token, in float64."""
    model = make_translator(direction="both", cell="lstm").double()
    (pair,) = random_pairs((5, 3))
    source, target = pair
    inputs, targets = batch_of([pair])
    features, _, _ = model.read(inputs, targets)

    def read(recurrence, ids):
        embedded = model.encoder.embedding(torch.tensor(ids))[:, None]
        (cell,) = recurrence.layers
        outputs, state = run_stepwise(cell, embedded, recurrence.initial_states(1)[0])
        return outputs[:, 0], state

    forward, last = read(model.encoder.recurrence, [EOS, *source])
    backward, first = read(model.encoder.backward_recurrence, [EOS, *source[::-1]])
    annotations = torch.cat([forward[1:], backward[1:].flip(0)], dim=-1)
    state = tuple(
        linear(torch.cat(both, dim=-1))
        for linear, *both in zip(model.bridge[0], last, first, strict=True)
    )
    embedded = model.decoder.encoder.embedding(torch.tensor([TAB, *target]))[:, None]
    (cell,) = model.decoder.encoder.recurrence.layers
    states, _ = run_stepwise(cell, embedded, state)
    attention = model.attention
    for at, hidden in enumerate(states[:, 0]):
        scores = torch.stack(
            [
                attention.score.weight[0]
                @ torch.tanh(
                    attention.query.weight @ hidden
                    + attention.query.bias
                    + attention.key.weight @ annotation
                )
                for annotation in annotations
            ]
        )
        weights = scores.exp() / scores.exp().sum()
        expected = hidden + attention.output.weight @ (weights @ annotations)
        # The weights are computed in fp32.
        assert torch.allclose(features[at, 0], expected, atol=1e-6)


@pytest.mark.slow
def test_attention_in_parts_is_the_same_and_has_the_same_gradients(monkeypatch):
    torch.manual_seed(1)
    attention = AdditiveAttention(3, 4, 5)
    features = torch.randn(7, 2, 3, requires_grad=True)
    memory = attention.remember(torch.randn(6, 2, 4), torch.ones(6, 2, dtype=torch.bool))

    def gradients():
        result = attention(features, memory)
        return result, *torch.autograd.grad(
            result.square().sum(), [features, *attention.parameters()], retain_graph=True
        )

    whole = gradients()
    monkeypatch.setattr(additive_attention, "_MAX_ENTRIES", 120)  # Two tokens at a time.
    for part, expected in zip(gradients(), whole, strict=True):
        assert torch.allclose(part, expected, atol=1e-6)


def test_a_later_token_of_the_target_does_not_change_what_is_predicted_before_it():
    model = make_translator()
    changed = [(source, [*target[:-1], 3 + (target[-1] - 2) % 6]) for source, target in
               PAIRS_OF_LENGTHS]  # fmt: skip
    for pair, other in zip(PAIRS_OF_LENGTHS, changed, strict=True):
        before, _, _ = model.read(*batch_of([pair]))
        after, _, _ = model.read(*batch_of([other]))
        assert torch.equal(before[:-1], after[:-1])
        assert not torch.equal(before[-1], after[-1])


def test_sources_of_different_lengths_are_translated_as_one_by_one(run):
    sources = [source for source, _ in PAIRS["translate"]]
    assert run.complete(sources) == [run.complete(source)[0] for source in sources]


@pytest.mark.parametrize(
    ("attention", "ngrams"), [("none", {}), ("additive", {}), ("additive", NGRAMS)]
)
def test_what_is_written_is_most_probable_and_more_beams_are_no_worse(attention, ngrams):
    model = make_translator(attention, direction="both", **ngrams)
    for source, _ in PAIRS_OF_LENGTHS:
        written = [
            complete_ids(model, [[*source, TAB]], CompletionOptions(beams=beams, length=4))[0]
            for beams in (1, 30)
        ]
        inputs, targets = batch_of([(source, written[0])])
        features, _, _ = model.read(inputs, targets)
        logits = model.projection(model.adapt(features))[:, 0]
        logits[:, 1] = -torch.inf  # <UNK> is never written.
        assert logits.argmax(dim=-1).tolist()[: len(written[0])] == written[0]
        if len(written[0]) == len(written[1]) == 4:
            nats = [nats_of(model, [(source, ids)]).nats for ids in written]
            assert nats[1] <= nats[0] + 2


def test_the_score_of_a_translator_and_its_attention(run):
    result = run.completions("valid", beams=2)
    assert result.records == 30
    assert result.exact_match > 0.5
    assert result.settings["direction"] == "both"
    attention = run.attention("bano")
    assert attention.source == list("bano")
    assert "".join(attention.target) == run.complete("bano")[0] + "<EOS>"
    weights = np.array(attention.weights)
    assert weights.shape == (len(attention.target), 4)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert json.loads(json.dumps(attention.to_json()))["source"] == list("bano")
    assert len(run.attention("bano", length=2).target) == 2


def test_a_model_without_attention_says_so(pairs_files, tmp_path):
    config = small_config(pairs_files["translate"], "task.attention=none", "task.kind=translate")
    train_all(config, tmp_path / "run")
    with pytest.raises(CharlmError, match=r"no attention .*; train one with task.attention=add"):
        load_translator(tmp_path / "run", device="cpu").attention("bano")


def test_sources_are_translated_from_the_command_line(run, capfd, monkeypatch, tmp_path):
    folder = str(run.folder)
    assert charlm(["sample", folder, "--source", "bano"]) == 0
    (expected,) = run.complete("bano")
    assert capfd.readouterr().out == f"{expected}\n"
    sources = "bano\nkira\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(sources.encode())))
    assert charlm(["sample", folder, "--source-file", "-", "--beams", "3", "--json"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line)["source"] for line in lines] == sources.split()
    (tmp_path / "sources").write_text("bano\n\nkira\n", encoding="utf-8")
    assert charlm(["sample", folder, "--source-file", str(tmp_path / "sources")]) == 1
    assert "line 2 is empty" in capfd.readouterr().err
    (tmp_path / "sources").write_bytes("ba\u2028no\r\nkira".encode())
    options = ["--source-file", str(tmp_path / "sources"), "--allow-unknown", "--json"]
    assert charlm(["sample", folder, *options]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["ba\u2028no", "kira"]
    assert charlm(["eval", "task", folder, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == run.completions().to_json()
    assert charlm(["inspect", folder]) == 0
    out = capfd.readouterr().out
    assert "decoder, layer 1, LSTM, input weights" in out
    assert "bridge, layer 1, state tensor 2, weights" in out
    assert "attention, weights of the scores" in out


def test_other_models_are_no_translators(trained, run):
    with pytest.raises(CharlmError, match="charlm train PAIRS --task translate"):
        load_translator(trained, device="cpu")
    with pytest.raises(CharlmError, match="charlm sample --source"):
        load(run.folder, device="cpu")
    with pytest.raises(CharlmError, match="is a model of task translate; start from a language"):
        open_ancestor(run.folder)


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_both_sides_start_from_a_language_model(records_file, pairs_files, tmp_path, direction):
    settings = ["corpus.mode=records", "model.tied=true", "model.initial_state=learned"]
    train_all(small_config(records_file, *settings), tmp_path / "names")
    ancestor = open_ancestor(tmp_path / "names")
    overrides = ["task.kind=translate", f"model.direction={direction}", "training.steps=1"]
    config = inherit(small_config(pairs_files["translate"], *overrides), ancestor)
    experiment = prepare.begin(config, tmp_path / "new", ancestor=ancestor)
    experiment.lock.release()
    found = dict(named_weights(experiment.model))
    for name, weight in ancestor.weights.items():
        sides = {name, f"decoder.{name}"} & found.keys()
        assert sides == {
            *([name] if name.startswith(("embedding.", "recurrence.")) else []),
            *([f"decoder.{name}"] if ".initial." not in name else []),
        }
        for side in sides:
            assert torch.equal(found[side][: len(weight)], weight), side
    assert len(found["embedding.weight"]) > len(ancestor.weights["embedding.weight"])


def test_a_translator_is_trained_from_python(pairs_files, tmp_path):
    config = small_config(pairs_files["translate"], "task.kind=translate")
    run = charlm_api.train_translator(config, out=tmp_path / "run", progress=False)
    assert len(run.complete(["bano", "kira"], length=5)) == 2
    assert repr(run).startswith("Translator ") and repr(run).count("\n") == 2
    assert (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").count("\\t") > 5
    with pytest.raises(CharlmError, match=r"charlm.train_translator"):
        charlm_api.train(config, out=tmp_path / "other", progress=False)
    resumed = charlm_api.resume(tmp_path / "run", steps=14, progress=False)
    assert isinstance(resumed, charlm_api.Translator) and resumed.history[-1]["step"] == 14


def test_a_table_of_pairs_needs_no_configuration(tmp_path, capfd):
    rows = "".join(f"{source},{target}\n" for source, target in PAIRS["translate"])
    (tmp_path / "pairs.csv").write_text("source,target\n" + rows, encoding="utf-8")
    out = ["--steps", "3", "--out", str(tmp_path / "run")]
    assert charlm(["train", str(tmp_path / "pairs.csv"), "--task", "translate", *out]) == 0
    assert "task: translate" in capfd.readouterr().err


@pytest.mark.slow
def test_pairs_of_words_and_of_subwords_are_translated(pairs_files, tmp_path):
    for level in ("word", "bpe", "byte"):
        options = ["task.kind=translate", f"tokenizer.level={level}", "training.steps=2"]
        train_all(small_config(pairs_files["translate"], *options), tmp_path / level)
        run = load_translator(tmp_path / level, device="cpu")
        assert run.completions().records == 30


def test_dates_are_written_in_ten_formats():
    day = date(2021, 5, 3)
    assert (
        written_date(day, "{weekday:.3} {day:02d}{ordinal} {month} {year}") == "Mon 03rd May 2021"
    )
    pairs = [line.split("\t") for line in written_dates(dates=300)]
    assert len({target for _, target in pairs}) == 300
    for source, target in pairs:
        found = date.fromisoformat(target)
        assert str(found.year) in source and str(found.day) in source
    for wrong in (0, "20000"):
        with pytest.raises(CorpusError, match="written-dates: dates must be"):
            next(written_dates(dates=wrong))


def test_the_features_of_an_empty_source_do_not_depend_on_the_sources_beside_it():
    """Its only position is <EOS>; the features after it belong to padding."""
    backward = torch.randn(3, 2, 4)
    beside = align(backward, torch.tensor([3, 1]))[:, 1:]
    alone = align(backward[:1, 1:], torch.tensor([1]))
    assert beside[:1].equal(alone)
