"""The folder of `export --to torch`: each recurrence and option, in a process without charlm."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import RECORDS, TEXT, small_config, train_all
from export.models import OPTIONS, STD, greedy, passage_of, random_model
from export.models import TEXT as EXPORTED_TEXT
from model.cells_table import CELLS
from safetensors.torch import load_file

import charlm
from charlm.export import torch as target
from charlm.export.options import ExportOptions
from charlm.export.verification import compare_logits, compute_logits
from charlm.model.log_probabilities import sequence_log_probabilities

SETTINGS = ["training.learning_rate=2e-2", "training.steps=40"]
MODELS = {name: {"cell": cell} for name, cell in CELLS.items()} | OPTIONS
# Loads every folder and prints its loss on the texts given, and a greedy text.
WITHOUT_CHARLM = """
import importlib.util, json, pathlib, sys
import torch
sys.modules["charlm"] = None
torch.set_num_threads(1)
results = []
for folder, texts, prompt in json.loads(sys.stdin.read()):
    spec = importlib.util.spec_from_file_location("model", pathlib.Path(folder, "model.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)
    model = module.load()
    results.append([model.loss_nats(*texts), model.generate(prompt, 100, temperature=0)])
print(json.dumps(results))
"""


def run_without_charlm(jobs: list) -> list[tuple[float, str]]:
    result = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", WITHOUT_CHARLM],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", MODELS)
def test_the_module_computes_the_logits_of_charlm(name, tmp_path):
    trained = random_model(MODELS[name], std=STD.get(name, 0.15))
    passage = passage_of(trained)
    options = ExportOptions("torch", tmp_path / "x")
    target.write(trained, options, tmp_path / "x")
    computed = target.compute(tmp_path / "x", passage, options)
    result = compare_logits(compute_logits(trained, passage), computed, passage, "fp32")
    assert result.largest_logit_difference < 1e-4, name
    names = {path.name for path in (tmp_path / "x").iterdir()}
    assert names == {"model.py", "model.safetensors", "tokenizer.json", "config.json"}


def test_the_modules_are_formatted_and_have_no_unused_part(tmp_path):
    sources = {name: target.module_source(random_model(MODELS[name])) for name in MODELS}
    for eos in ("line", "sentence", "none"):
        for direction in ("forward", "backward"):
            trained = random_model({"direction": direction}, overrides=(f"tokenizer.eos={eos}",))
            sources[f"{direction} {eos}"] = target.module_source(trained)
    for name, source in sources.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    rules = "--select=E,F,I,UP,B,SIM,RUF"
    ruff = [sys.executable, "-m", "ruff"]
    for arguments in (
        ["check", "--isolated", "--line-length=100", rules],
        ["format", "--check", "--isolated", "--line-length=100"],
    ):
        result = subprocess.run(
            [*ruff, *arguments, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("cell", ["lstm", "gru", "elman"])
def test_layers_of_torch_load_the_weights_of_their_layer(cell, tmp_path):
    trained = random_model({"cell": cell, "num_layers": 2})
    target.write(trained, ExportOptions("torch", tmp_path / "x"), tmp_path / "x")
    weights = load_file(tmp_path / "x" / "model.safetensors")
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[cell]
    x = torch.nn.functional.embedding(torch.arange(9)[:, None], weights["embedding.weight"])
    for number, size in enumerate([12, 32]):
        layer = kind(size, 32)
        prefix = f"layers.{number}."
        layer.load_state_dict(
            {key.removeprefix(prefix): value for key, value in weights.items() if prefix in key}
        )
        x, _ = layer(x)
    logits = torch.nn.functional.linear(x, weights["projection.weight"], weights["projection.bias"])
    expected, _ = trained.model(torch.arange(9)[:, None])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_without_charlm_losses_and_greedy_texts_are_those_of_charlm(tmp_path):
    """Every level of tokens, records, and both directions that a folder can have."""
    text, records = tmp_path / "text.txt", tmp_path / "records.txt"
    text.write_text(TEXT, encoding="utf-8")
    records.write_text(RECORDS, encoding="utf-8")
    cases = {
        "char": [text],
        "byte": [text, "tokenizer.level=byte"],
        "word": [text, "tokenizer.level=word"],
        "whitespace": [text, "tokenizer.level=word", "tokenizer.words=whitespace"],
        "bpe": [text, "tokenizer.level=bpe", "tokenizer.vocabulary_size=300"],
        "lowercase": [text, "tokenizer.lowercase=true"],
        "line": [text, "tokenizer.eos=line"],
        "sentence": [text, "tokenizer.eos=sentence"],
        "none": [text, "tokenizer.eos=none"],
        "backward line": [text, "tokenizer.eos=line", "model.direction=backward"],
        "records": [records, "corpus.mode=records"],
        "backward": [text, "model.direction=backward"],
    }
    jobs, runs = [], []
    for name, (path, *overrides) in cases.items():
        train_all(small_config(path, *SETTINGS, *overrides), tmp_path / name)
        runs.append(charlm.load(tmp_path / name))
        if name == "char":  # <UNK> is never written, however probable it is.
            with torch.no_grad():
                runs[-1].model.projection.bias[1] = 5
        charlm.export_run(runs[-1], "torch", tmp_path / "new" / f"{name}-torch")
        shutil.move(tmp_path / "new" / f"{name}-torch", tmp_path)
        assert not list(tmp_path.glob("*/__pycache__"))
        scored = RECORDS[:60] if name == "records" else TEXT[:300]
        pieces = scored.splitlines() if name == "records" else [scored]
        jobs.append([str(tmp_path / f"{name}-torch"), pieces, scored[:3]])
    for name, run, job, (loss, written) in zip(
        cases, runs, jobs, run_without_charlm(jobs), strict=True
    ):
        scored = "".join(f"{piece}\n" for piece in job[1]) if len(job[1]) > 1 else job[1][0]
        assert loss == pytest.approx(run.perplexity(scored).loss_nats, abs=1e-6), name
        (sample,) = run.sample(prompt=job[2], length=100, temperature=0)
        assert written == sample.text, name


def test_no_text_is_in_the_source_and_no_folder_in_the_title(tmp_path):
    hostile = '"""\nimport os; os.abort()\n"""'
    trained = random_model(text=hostile + "abc")
    corpus = trained.config.corpus.model_copy(update={"text": (f"/home/me/{hostile}",)})
    trained = replace(trained, config=trained.config.model_copy(update={"corpus": corpus}))
    assert "abort" not in target.module_source(trained)
    target.write(trained, ExportOptions("torch", tmp_path / "x"), tmp_path / "x")
    config = json.loads((tmp_path / "x" / "config.json").read_text(encoding="utf-8"))
    assert config["title"] == hostile


@pytest.mark.slow
def test_without_charlm_every_recurrence_and_option_has_the_same_loss_and_greedy_text(tmp_path):
    models = {name: random_model(MODELS[name], std=STD.get(name, 0.15)) for name in MODELS}
    jobs = []
    for number, trained in enumerate(models.values()):
        folder = tmp_path / str(number)
        target.write(trained, ExportOptions("torch", folder), folder)
        jobs.append([str(folder), [EXPORTED_TEXT[:200]], ""])
    for (name, trained), (loss, written) in zip(
        models.items(), run_without_charlm(jobs), strict=True
    ):
        ids = [*trained.tokenizer.encode(EXPORTED_TEXT[:200]).tolist(), 0]
        (log_p,) = sequence_log_probabilities(trained.model, [ids], eos=0, device=trained.device)
        assert loss == pytest.approx(-log_p / len(ids), abs=5e-7), name
        assert written == greedy(trained, 100).text, name
