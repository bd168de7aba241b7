"""The folder of `export --to transformers`, in a process without charlm and without network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import RECORDS, TEXT, small_config, train_all
from export.models import OPTIONS, STD, greedy, passage_of, random_model
from model.cells_table import CELLS

import charlm
from charlm.export import transformers as target
from charlm.export.options import ExportOptions
from charlm.export.verification import compare_logits, compute_logits
from charlm.model.log_probabilities import sequence_log_probabilities

SETTINGS = ["training.learning_rate=2e-2", "training.steps=40"]
MODELS = {name: {"cell": cell} for name, cell in CELLS.items()} | OPTIONS
UNUSUAL = "The <EOS> cat\n <UNK>  é\t"  # In a text, <EOS> is not the end.
WITHOUT_CHARLM = """
import json, sys
sys.modules["charlm"] = None
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)

results = []
jobs, unusual = json.loads(sys.stdin.read())
for folder, prompts in jobs:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)

    def write(texts, **options):
        inputs = tokenizer(texts, return_tensors="pt", padding=len(texts) > 1)
        written = model.generate(**inputs, max_new_tokens=20, **options)
        return written[:, inputs["input_ids"].shape[1]:].tolist(), inputs

    alone = [write([prompt], do_sample=False)[0][0] for prompt in prompts]
    together, inputs = write(prompts, do_sample=False)
    beams, _ = write(prompts, do_sample=False, num_beams=4, length_penalty=0.0)
    ids = tokenizer(prompts[0], return_tensors="pt")["input_ids"]
    output = model(input_ids=ids, labels=ids)
    results.append({
        "alone": alone,
        "together": together,
        "beams": beams,
        "ids": [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts],
        "with_eos": [tokenizer(prompt)["input_ids"] for prompt in prompts],
        "mask": inputs["attention_mask"].tolist(),
        "text": tokenizer.decode(ids[0, 1:]),
        "loss": output.loss.item(),
        "unusual": tokenizer(unusual, add_special_tokens=False)["input_ids"],
        "without_cache": write(prompts, do_sample=False, use_cache=False)[0],
        "eos": [tokenizer.eos_token_id, tokenizer.unk_token_id],
    })
    model.save_pretrained(folder + "-again")
    tokenizer.save_pretrained(folder + "-again")
    again = AutoModelForCausalLM.from_pretrained(folder + "-again", trust_remote_code=True)
    assert torch.equal(again(input_ids=ids).logits, output.logits)
print(json.dumps(results))
"""


def run_without_charlm(jobs: list, cache: Path, program: str = WITHOUT_CHARLM) -> list:
    result = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", program],
        input=json.dumps([jobs, UNUSUAL]),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {
            "HF_HOME": str(cache),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "warning",
        },
    )
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if "Loading weights" not in line]
    assert not [line for line in warnings if line], result.stderr
    return json.loads(result.stdout)


def logit_difference(name: str, folder: Path) -> float:
    trained = random_model(MODELS[name], std=STD.get(name, 0.15))
    passage = passage_of(trained)
    options = ExportOptions("transformers", folder)
    target.write(trained, options, folder)
    computed = target.compute(folder, passage, options)
    result = compare_logits(compute_logits(trained, passage), computed, passage, "fp32")
    return result.largest_logit_difference


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "backward"])
def test_the_folder_computes_the_logits_of_charlm(name, tmp_path):
    assert logit_difference(name, tmp_path / "x") < 1e-4


GREEDY = """
import json, sys
sys.modules["charlm"] = None
import torch
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
results = []
for folder in json.loads(sys.stdin.read())[0]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.zeros(1, 1, dtype=torch.int64)
    written = model.generate(ids, max_new_tokens=200, do_sample=False)
    results.append(written[0, 1:].tolist())
print(json.dumps(results))
"""


@pytest.mark.slow
def test_every_recurrence_and_option_generates_the_greedy_text_of_charlm(tmp_path):
    names = [name for name in MODELS if name != "backward"]
    models = {name: random_model(MODELS[name], std=STD.get(name, 0.15)) for name in names}
    folders = [tmp_path / str(number) for number in range(len(models))]
    for folder, trained in zip(folders, models.values(), strict=True):
        target.write(trained, ExportOptions("transformers", folder), folder)
    results = run_without_charlm(list(map(str, folders)), tmp_path / "cache", GREEDY)
    for (name, trained), ids in zip(models.items(), results, strict=True):
        assert ids == greedy(trained).tokens, name


@pytest.mark.slow
def test_an_export_is_verified_by_transformers(trained, tmp_path):
    result = charlm.export_run(charlm.load(trained), "transformers", tmp_path / "x")
    assert result.verification.runtime.startswith("transformers 5")
    assert not list(tmp_path.glob("x/__pycache__"))


def test_generate_is_greedy_sampling_of_charlm_in_batches_and_with_beams(tmp_path):
    """At every level of tokens, in stream and records mode, for the main kinds of cells."""
    text, records = tmp_path / "text.txt", tmp_path / "records.txt"
    text.write_text(TEXT, encoding="utf-8")
    records.write_text(RECORDS, encoding="utf-8")
    cases = {
        "char": [text, "model.num_layers=2", "model.initial_state=learned"],
        "byte": [text, "tokenizer.level=byte", "model.cell=gru"],
        "word": [text, "tokenizer.level=word", "model.tied=true", "model.cell=min_lstm"],
        "whitespace": [text, "tokenizer.level=word", "tokenizer.words=whitespace"],
        "bpe": [text, "tokenizer.level=bpe", "tokenizer.vocabulary_size=300"],
        "records": [records, "corpus.mode=records", "training.steps=60"],
    }
    jobs, runs = [], []
    for name, (path, *overrides) in cases.items():
        train_all(small_config(path, *SETTINGS, *overrides), tmp_path / name)
        runs.append(charlm.load(tmp_path / name))
        if name == "char":  # <UNK> is never written, however probable it is.
            with torch.no_grad():
                runs[-1].model.projection.bias[1] = 5
        target.write(
            runs[-1].trained, ExportOptions("transformers", tmp_path), tmp_path / f"{name}-hf"
        )
        prompts = ["ba", "d", "gel"] if name == "records" else ["The", "The cat sat on", "The old"]
        jobs.append([str(tmp_path / f"{name}-hf"), prompts])
    results = run_without_charlm(jobs, tmp_path / "cache")
    for name, run, (_, prompts), result in zip(cases, runs, jobs, results, strict=True):
        greedy = [run.sample(prompt=text, length=20, temperature=0)[0] for text in prompts]
        assert [cut(ids, run) for ids in result["alone"]] == [each.tokens for each in greedy], name
        assert [cut(ids, run) for ids in result["together"]] == [each.tokens for each in greedy], (
            name
        )
        assert result["without_cache"] == result["together"], name
        best = [
            run.search(prompt=text, length=20, beams=4, length_penalty=0)[0] for text in prompts
        ]
        assert [cut(ids, run) for ids in result["beams"]] == [each.tokens for each in best], name
        ids = [run.tokenizer.encode(prompt).tolist() for prompt in prompts]
        assert result["ids"] == ids and result["with_eos"] == [[0, *each] for each in ids], name
        assert result["text"] == prompts[0] and result["eos"] == [0, 1], name
        assert [sum(row) for row in result["mask"]] == [1 + len(each) for each in ids], name
        assert result["unusual"] == run.tokenizer.encode(UNUSUAL).tolist(), name
        (log_p,) = sequence_log_probabilities(run.model, ids[:1], eos=0, device=run.device)
        assert result["loss"] == pytest.approx(-log_p / len(ids[0]), abs=1e-6), name


def cut(ids: list[int], run) -> list[int]:
    """Return the ids before the <EOS> that ends a record."""
    return ids[: ids.index(0)] if run.writes_records and 0 in ids else ids


def test_the_modeling_files_are_formatted(tmp_path):
    for name in MODELS:
        source = target.modeling_source(random_model(MODELS[name]))
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    ruff = [sys.executable, "-m", "ruff"]
    rules = "--select=E,F,I,UP,B,SIM,RUF"
    for arguments in (["check", rules], ["format", "--check"]):
        result = subprocess.run(
            [*ruff, *arguments, "--isolated", "--line-length=100", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout
