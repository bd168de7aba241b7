"""A model trained with plain torch becomes a run with the same score; ambiguities are errors."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TEXT
from export.models import random_model
from safetensors.torch import save_file
from torch import nn

import charlm
from charlm.cli.main import run as command
from charlm.errors import CharlmError, OptionError
from charlm.export import torch as target
from charlm.export.options import ExportOptions

CHARACTERS = sorted(set(TEXT))
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}
HIDDEN = 12


class PlainModel(nn.Module):
    """What a tutorial of torch has."""

    def __init__(self, kind: str = "lstm", *, tokens: int = len(CHARACTERS), **options) -> None:
        super().__init__()
        self.encoder = nn.Embedding(tokens, options.pop("embedding_size", 6))
        width = self.encoder.embedding_dim
        self.rnn = KINDS[kind](width, HIDDEN, **{"num_layers": 2} | options)
        self.decoder = nn.Linear(HIDDEN, tokens)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        output, _ = self.rnn(self.encoder(ids))
        return self.decoder(output)

    def loss(self, text: str, tokens=CHARACTERS) -> torch.Tensor:
        """Return the loss of a text that begins after a line end."""
        targets = torch.tensor([tokens.index(letter) for letter in text])
        inputs = torch.cat([torch.tensor([tokens.index("\n")]), targets[:-1]])
        return nn.functional.cross_entropy(self(inputs), targets)


def trained_model(kind: str = "lstm", steps: int = 30, **options) -> PlainModel:
    torch.manual_seed(1)
    model = PlainModel(kind, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(TEXT[:200]).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def lstm() -> PlainModel:
    return trained_model(steps=80)


@pytest.fixture
def characters(tmp_path) -> Path:
    path = tmp_path / "chars.json"
    path.write_text(json.dumps(CHARACTERS), encoding="utf-8")
    return path


def save(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, path)
    return path


def in_file_order(tensors: dict[str, torch.Tensor], gates: str) -> dict[str, torch.Tensor]:
    """Return the tensors of an LSTM with its gates in another order."""
    order = ["ifgo".index(letter) for letter in gates]
    return {
        name: torch.cat([tensor.chunk(4)[block] for block in order]) if "_l" in name else tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_imported_model_has_the_score_of_torch_to_six_digits(kind, tmp_path, characters):
    model = trained_model(kind)
    weights = save(tmp_path / "x.safetensors", model.state_dict())
    options = {"activation": "tanh"} if kind == "elman" else {}
    result = charlm.import_run(
        weights,
        cell=kind,
        tokenizer=characters,
        out=tmp_path / "run",
        eos="\\n",
        text=TEXT[:700],
        **options,
    )
    expected = model.loss(TEXT[:700]).item()
    assert result.loss_nats == pytest.approx(expected, abs=1e-6)
    run = charlm.load(tmp_path / "run")
    assert run.perplexity(TEXT[:700]).loss_nats == pytest.approx(expected, abs=1e-6)
    assert result.roles["rnn.weight_hh_l1"] == "layer 2, recurrent weights"
    assert set(result.roles) == set(model.state_dict())


def test_an_imported_run_is_an_ordinary_run(lstm, tmp_path, characters, capfd, monkeypatch):
    weights = save(tmp_path / "x.safetensors", lstm.state_dict())
    (tmp_path / "text.txt").write_text(TEXT[:300], encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def ok(*arguments: str) -> str:
        assert command(list(arguments)) == 0, capfd.readouterr().err
        return capfd.readouterr().out

    known = ["--cell=lstm", f"--tokenizer={characters}", "--eos=\\n", "--text-file=text.txt"]
    printed = ok("import", str(weights), *known, "--out=runs/mine")
    assert "layer 2, recurrent weights  rnn.weight_hh_l1" in printed
    assert r"<EOS> is read as '\n', and only at the beginning of a text" in printed
    assert f"{lstm.loss(TEXT[:300]).item():.4f} nats per token on 300 tokens" in printed
    assert len(ok("sample", "runs/mine", "--length=40", "--seed=1").rstrip("\n")) >= 40
    assert "loss_nats" in ok("eval", "perplexity", "runs/mine", "text.txt")
    assert command(["eval", "perplexity", "runs/mine"]) == 1
    without_text = (
        "charlm: runs/mine: was imported without its training text; train it on a text with "
        "charlm train TEXT --from runs/mine"
    )
    assert capfd.readouterr().err == f"{without_text}, or name a text to score\n"
    assert "LSTM" in ok("inspect", "runs/mine")
    assert "mine" in ok("runs")
    assert "report.html" in ok(
        "view", "runs/mine", "--text=The cat sat on the mat.", "--only=surprisal"
    )
    assert "text of the model" in ok("export", "runs/mine", "--to=torch", "--out=exported")
    assert "imported from x.safetensors" in repr(charlm.load("runs/mine"))
    assert command(["train", "--resume", "runs/mine"]) == 1
    assert capfd.readouterr().err == f"{without_text}\n"
    further = ["train", "text.txt", "--from=runs/mine", "--steps=1", "--out=runs/new"]
    assert command(further) == 0
    forgets = "what the model forgets is not measured: mine was imported without its training text"
    assert forgets in capfd.readouterr().err


def test_a_wrong_order_of_the_gates_is_detected_and_the_right_one_is_named(
    lstm, tmp_path, characters
):
    options = {"cell": "lstm", "tokenizer": characters, "eos": "\n", "text": TEXT[:700]}
    expected = lstm.loss(TEXT[:700]).item()
    for gates in ("ifog", "ogif"):
        weights = save(tmp_path / "x.safetensors", in_file_order(lstm.state_dict(), gates))
        with pytest.raises(CharlmError, match=f"import it with --gates {gates}") as caught:
            charlm.import_run(weights, out=tmp_path / "wrong", **options)
        assert "uniform distribution" in str(caught.value)
        assert not (tmp_path / "wrong").exists()
        right = charlm.import_run(weights, out=tmp_path / gates, gates=gates, **options)
        assert right.loss_nats == pytest.approx(expected, abs=1e-6)


def test_a_model_that_has_learned_nothing_says_nothing_about_the_order_of_its_gates(
    tmp_path, characters
):
    model = trained_model(steps=0)
    for tensor in model.parameters():  # So that the orders differ.
        tensor.data *= 4
    weights = save(tmp_path / "x.safetensors", model.state_dict())
    options = {"cell": "lstm", "tokenizer": characters, "eos": "\n", "text": TEXT[:300]}
    assert charlm.import_run(weights, out=tmp_path / "run", **options).is_no_better_than_uniform


def test_a_wrong_order_of_the_gates_of_a_gru_is_detected(tmp_path, characters):
    model = trained_model("gru", steps=40, num_layers=1)
    for gates in ("zrn", "nrz"):
        order = ["rzn".index(letter) for letter in gates]
        tensors = {
            name: torch.cat([tensor.chunk(3)[block] for block in order]) if "_l" in name else tensor
            for name, tensor in model.state_dict().items()
        }
        weights = save(tmp_path / "x.safetensors", tensors)
        options = {"cell": "gru", "tokenizer": characters, "eos": "\n", "text": TEXT[:300]}
        charlm.import_run(weights, out=tmp_path / gates, gates=gates, **options)
        with pytest.raises(CharlmError, match=f"--gates {gates}"):
            charlm.import_run(weights, out=tmp_path / "wrong", **options)


def test_a_text_that_does_not_fit_is_reported(tmp_path, characters, capfd):
    weights = save(tmp_path / "x.safetensors", PlainModel().state_dict())
    (tmp_path / "text.txt").write_text("zzz qqq", encoding="utf-8")
    arguments = [str(weights), "--cell=lstm", f"--tokenizer={characters}", "--eos=\\n"]
    text = f"--text-file={tmp_path / 'text.txt'}"
    assert command(["import", *arguments, text, f"--out={tmp_path / 'run'}"]) == 0
    assert "costs as much as with a uniform distribution" in capfd.readouterr().err


def test_tied_and_one_hot_models_and_layers_without_biases_are_matched(tmp_path, characters):
    tied = PlainModel(embedding_size=HIDDEN)
    tied.decoder.weight = tied.encoder.weight
    tensors = dict(tied.state_dict())
    copies, alone = dict(tensors), {n: t for n, t in tensors.items() if n != "decoder.weight"}
    without_biases = PlainModel(bias=False)
    one_hot = {n: t for n, t in PlainModel(embedding_size=len(CHARACTERS)).state_dict().items()}
    matrix = one_hot.pop("encoder.weight")
    matrix.copy_(torch.eye(len(CHARACTERS)))
    reference = PlainModel(embedding_size=len(CHARACTERS))
    reference.load_state_dict(one_hot | {"encoder.weight": matrix})
    cases = {
        "copies": (copies, tied),
        "alone": (alone, tied),
        "no biases": (without_biases.state_dict(), without_biases),
        "one-hot": (one_hot, reference),
    }
    for name, (state, model) in cases.items():
        weights = save(tmp_path / "x.safetensors", state)
        result = charlm.import_run(
            weights, cell="lstm", tokenizer=characters, out=tmp_path / name, eos="\n"
        )
        run = charlm.load(tmp_path / name)
        expected = model.loss(TEXT[:200]).item()
        assert run.perplexity(TEXT[:200]).loss_nats == pytest.approx(expected, abs=1e-6), name
        assert run.config.model.tied == (model is tied), name
        assert run.config.model.embedding == ("one_hot" if name == "one-hot" else "learned")
        assert set(result.roles) == set(state), name


def test_cells_and_layers_with_names_of_their_own_are_put_in_order(tmp_path, characters):
    model = PlainModel()
    names = {"encoder.": "emb.", "decoder.": "fc_out."}
    cells = {}
    for name, tensor in model.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        if "_l" in name:
            cell, layer = name.removeprefix("rnn.").split("_l")
            name = f"cells.{10 if layer == '1' else 9}.{cell}"
        cells[name] = tensor
    weights = save(tmp_path / "x.safetensors", cells)
    options = {"cell": "lstm", "tokenizer": characters, "eos": "\n"}
    charlm.import_run(weights, out=tmp_path / "cells", **options)
    expected = pytest.approx(model.loss(TEXT[:200]).item(), abs=1e-6)
    assert charlm.load(tmp_path / "cells").perplexity(TEXT[:200]).loss_nats == expected
    named = {
        n.replace("cells.9.", "lower.").replace("cells.10.", "upper."): t for n, t in cells.items()
    }
    weights = save(tmp_path / "x.safetensors", named)
    with pytest.raises(OptionError, match="layers: is missing: name the layers in order"):
        charlm.import_run(weights, out=tmp_path / "named", **options)
    with pytest.raises(CharlmError, match="layer 2 reads 6 values"):
        charlm.import_run(weights, out=tmp_path / "named", layers=("upper", "lower"), **options)
    charlm.import_run(weights, out=tmp_path / "named", layers=("lower", "upper"), **options)
    assert charlm.load(tmp_path / "named").perplexity(TEXT[:200]).loss_nats == expected


def test_two_matrices_of_one_shape_without_usual_names_are_asked_for(tmp_path, characters):
    state = {
        name.replace("encoder", "a").replace("decoder", "b"): tensor
        for name, tensor in PlainModel(embedding_size=HIDDEN).state_dict().items()
    }
    weights = save(tmp_path / "x.safetensors", state)
    options = {"cell": "lstm", "tokenizer": characters, "eos": "\n", "out": tmp_path / "run"}
    with pytest.raises(OptionError, match=r"projection: is missing: a\.weight or b\.weight"):
        charlm.import_run(weights, **options)
    result = charlm.import_run(weights, embedding="a.weight", projection="b.weight", **options)
    assert (result.roles["a.weight"], result.roles["b.weight"]) == ("embedding", "projection")


def test_names_of_eos_and_unknown_are_moved_and_records_end(tmp_path):
    tokens = ["<pad>", *CHARACTERS[1:], "<unk>", "\n"]
    path = tmp_path / "chars.json"
    path.write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    model = PlainModel(tokens=len(tokens))
    weights = save(tmp_path / "x.safetensors", model.state_dict())
    options = {"cell": "lstm", "tokenizer": path, "mode": "records"}
    with pytest.raises(CharlmError, match="'<pad>' is not one character"):
        charlm.import_run(weights, out=tmp_path / "run", eos="\n", unknown="<unk>", **options)
    charlm.import_run(weights, out=tmp_path / "run", eos="<pad>", unknown="<unk>", **options)
    run = charlm.load(tmp_path / "run")
    assert run.writes_records and run.tokenizer.encode("\n#").tolist() == [len(tokens) - 1, 1]
    with torch.inference_mode():
        inputs = torch.tensor([[0], [1], [tokens.index("<unk>")]])
        expected = model(inputs)[:, 0]
        logits, _ = run.model(torch.tensor([[0], [2], [1]]))
    for ours, theirs in [(0, 0), (1, tokens.index("<unk>")), (2, 1), (len(tokens) - 1, -1)]:
        torch.testing.assert_close(logits[:, 0, ours], expected[:, theirs], rtol=0, atol=1e-5)


def test_a_folder_exported_to_torch_is_imported_with_its_tokenizer(tmp_path):
    for name, options in {"lstm": {}, "tied": {"tied": True, "embedding_size": 32}}.items():
        for level in ("char", "byte"):
            trained = random_model(options, overrides=(f"tokenizer.level={level}",))
            folder = tmp_path / f"{name} {level}"
            target.write(trained, ExportOptions("torch", folder), folder)
            charlm.import_run(
                folder / "model.safetensors",
                cell="lstm",
                tokenizer=folder / "tokenizer.json",
                out=folder / "run",
            )
            run = charlm.load(folder / "run")
            ids = torch.arange(9)[:, None]
            expected, _ = trained.model(ids)
            torch.testing.assert_close(run.model(ids)[0], expected)
            assert run.tokenizer.to_json() == trained.tokenizer.to_json()


def test_what_cannot_be_imported_is_named(tmp_path, characters):
    state = dict(PlainModel().state_dict())
    options = {"cell": "lstm", "tokenizer": characters, "eos": "\n"}
    cases = [
        (state | {"rnn.weight_ih_l0_reverse": torch.ones(2)}, {}, "reads backward"),
        (state | {"rnn.weight_hr_l0": torch.ones(2)}, {}, "proj_size"),
        (state | {"extra": torch.ones(3)}, {}, r"extra of shape \(3,\) belongs to no part"),
        (state | {"rnn.bias_ih_l0": torch.full((48,), torch.nan)}, {}, "not finite"),
        (state | {"rnn.bias_ih_l0": torch.ones(48, dtype=torch.int32)}, {}, "not finite numbers"),
        ({"encoder.weight": torch.ones(2, 2)}, {}, "no tensor has a name"),
        (state, {"cell": "gru"}, "must have 3 square blocks"),
        ({n: t for n, t in state.items() if "decoder.weight" not in n}, {}, "is the projection"),
        ({n: t for n, t in state.items() if "encoder" not in n}, {}, "is the embedding"),
        ({n: t for n, t in state.items() if "hh_l1" not in n}, {}, "weight_hh_l1: must have"),
        (state | {"rnn.weight_ih_l0": torch.ones(5, 6)}, {}, "must have 48 rows"),
        (state, {"eos": None}, "eos: is missing"),
        (state, {"eos": "?"}, "eos: is not in"),
        (state, {"gates": "ifgx"}, "gates: must have each of"),
        (state, {"cell": "elman"}, "activation: must be tanh or relu"),
        (state, {"activation": "tanh"}, "activation: has no meaning"),
        (state, {"embedding": "nothing"}, "embedding: must be one of encoder.weight"),
        (state, {"embedding": "none"}, "embedding: cannot be none"),
        (state, {"layers": ("a", "b")}, "layers: must name all of rnn"),
    ]
    for tensors, changes, problem in cases:
        weights = save(tmp_path / "x.safetensors", tensors)
        with pytest.raises(CharlmError, match=problem):
            charlm.import_run(weights, out=tmp_path / "run", **options | changes)
        assert not (tmp_path / "run").exists(), problem


def test_character_files_that_are_not_a_list_of_characters_are_refused(tmp_path):
    weights = save(tmp_path / "x.safetensors", PlainModel().state_dict())
    path = tmp_path / "chars"
    for text, problem in [
        ("a\nb\nc\n", r"'\\n' occurs twice"),
        ('["a", 1]', "entry 1 must be a text"),
        ('["\\ud800"]', "entry 0 must be a text"),
        ('{"a": 0, "b": 2}', "without a gap"),
        ('{"model": {}}', "eos: has no meaning for a tokenizer of charlm"),
        ('["a", "bc", "\\n"]', "'bc' is not one character"),
        ("\n!", "no tensor is the projection: the tokenizer has 2 tokens"),
    ]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CharlmError, match=problem):
            charlm.import_run(weights, cell="lstm", tokenizer=path, out=tmp_path / "run", eos="\n")
    path.write_text('{"model": {}}', encoding="utf-8")
    with pytest.raises(CharlmError, match="is not a tokenizer of charlm"):
        charlm.import_run(weights, cell="lstm", tokenizer=path, out=tmp_path / "run")
    for number, text in enumerate(("".join(CHARACTERS), json.dumps(CHARACTERS))):
        path.write_text(f"\ufeff{text}", encoding="utf-8")  # As some editors write it.
        out = tmp_path / f"marked-{number}"
        charlm.import_run(weights, cell="lstm", tokenizer=path, out=out, eos="\n")
    path.write_text("".join(CHARACTERS), encoding="utf-8")
    charlm.import_run(weights, cell="lstm", tokenizer=path, out=tmp_path / "run", eos="\n")
    with pytest.raises(CharlmError, match="exists and is not empty"):
        charlm.import_run(weights, cell="lstm", tokenizer=path, out=tmp_path / "run", eos="\n")
