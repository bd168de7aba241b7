"""Exports to HTML: page and module, their verification, and what is refused."""

import base64
import json
import re
import shutil
import subprocess
import zlib
from typing import Any

import numpy as np
import pytest
from conftest import small_config, train_all

import charlm
from charlm.errors import CharlmError, UnsupportedOptionError
from charlm.export import javascript
from charlm.export.html import compute
from charlm.export.options import ExportOptions
from charlm.export.verification import choose_passage, compute_logits

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
needs_runtime = pytest.mark.skipif(
    shutil.which("node") is None and javascript.find_chromium() is None,
    reason="needs node or chromium",
)


def use_only(monkeypatch, *names: str) -> None:
    """Let only some runtimes be installed."""
    which = shutil.which
    monkeypatch.setattr(
        javascript.shutil, "which", lambda name: which(name) if name in names else None
    )


@needs_runtime
def test_each_precision_is_verified_by_the_javascript_of_the_file(trained, tmp_path):
    run = charlm.load(trained)
    for precision, limit in (("fp32", 1e-6), ("fp16", 1e-3), ("int8", 0.01)):
        result = charlm.export_run(run, "html", tmp_path / f"{precision}.html", precision=precision)
        found = result.verification
        assert found.runtime in ("node", "chromium")
        assert abs(found.nats_difference) < limit
        assert found.tokens == 1000


@pytest.mark.skipif(javascript.find_chromium() is None, reason="needs chromium")
def test_chromium_verifies_where_node_is_missing(monkeypatch, trained, tmp_path):
    use_only(monkeypatch, "chromium", "chromium-browser")
    run = charlm.load(trained)
    result = charlm.export_run(run, "html", tmp_path / "x.html", precision="fp32", text="The cat")
    assert result.verification.runtime == "chromium"
    assert result.verification.largest_logit_difference < 1e-5


def test_without_a_runtime_the_weights_of_the_file_are_measured(monkeypatch, tmp_path, text_file):
    use_only(monkeypatch)
    overrides = ("model.tied=true", "model.cell=gru", "model.initial_state=learned")
    train_all(small_config(text_file, *overrides), tmp_path / "run")
    run = charlm.load(tmp_path / "run")
    result = charlm.export_run(run, "html", tmp_path / "x.html")
    assert "the JavaScript was not run" in result.verification.runtime
    assert 1e-4 < result.verification.largest_logit_difference < 0.2
    exact = charlm.export_run(run, "html", tmp_path / "exact.html", precision="fp32")
    assert exact.verification.largest_logit_difference < 1e-5


@needs_runtime
def test_a_changed_weight_of_the_file_is_measured(trained, tmp_path):
    run = charlm.load(trained)
    path = tmp_path / "x.html"
    charlm.export_run(run, "html", path, precision="fp32")
    text = path.read_text(encoding="utf-8")
    weights = re.search(r'"weights":"([^"]+)"', text)[1]
    data = np.frombuffer(base64.b64decode(weights), "<f4").copy()
    data[100:200] += 0.5
    path.write_text(text.replace(weights, base64.b64encode(data.tobytes()).decode()), "utf-8")
    passage = choose_passage(run.trained, "The cat sat")
    options = ExportOptions("html", path, precision="fp32")
    logits = compute(path, passage, options).logits[0]
    assert np.abs(logits - compute_logits(run.trained, passage)[0]).max() > 0.01


@needs_runtime
def test_a_failing_runtime_is_one_line_and_leaves_nothing(monkeypatch, trained, tmp_path):
    monkeypatch.setattr(javascript, "_COMPUTE", "throw new Error('a mistake');const result = '';")
    with pytest.raises(CharlmError, match=r"node failed: .*a mistake|no logits"):
        charlm.export_run(charlm.load(trained), "html", tmp_path / "x.html")
    assert not list(tmp_path.iterdir())


def test_new_only_needs_records(trained, tmp_path):
    with pytest.raises(UnsupportedOptionError, match="new_only: needs a model of records"):
        charlm.export_run(charlm.load(trained), "html", tmp_path / "x.html", new_only=True)
    assert not list(tmp_path.iterdir())


def test_the_file_reveals_training_records_only_if_asked(
    monkeypatch, trained_records, records_file, tmp_path
):
    use_only(monkeypatch)
    run = charlm.load(trained_records)
    charlm.export_run(run, "html", tmp_path / "without.html")
    assert "training-hashes" not in page_parts(tmp_path / "without.html")
    charlm.export_run(run, "html", tmp_path / "with.html", new_only=True)
    hashes = base64.b64decode(page_parts(tmp_path / "with.html")["training-hashes"])
    known = set(np.frombuffer(hashes, "<u4").tolist())
    records = records_file.read_text(encoding="utf-8").split()
    in_training = [zlib.crc32(record.encode()) in known for record in records]
    assert sum(in_training) == len(known) == 120  # Four fifths of 150.


def page_parts(path) -> dict[str, str]:
    """Return the data of a page by id."""
    text = path.read_text(encoding="utf-8")
    return dict(re.findall(r'<script type="[^"]*" id="([^"]*)">(.*?)</script>', text, re.S))


def test_the_page_tells_corpus_licence_network_and_score(monkeypatch, trained, tmp_path):
    use_only(monkeypatch)
    run = charlm.load(trained)
    charlm.export_run(run, "html", tmp_path / "x.html")
    about = json.loads(page_parts(tmp_path / "x.html")["model"])["about"]
    assert about["title"] == "text.txt"  # Without its folder.
    assert about["licence"] == "not stated"
    assert about["network"] == "LSTM, 16 units"
    assert about["score"].endswith("bits per character) on held-out text")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert str(trained.parent) not in text
    assert "http://" not in text and "https://" not in text


def run_module(folder, code: str) -> Any:
    """Return the JSON that a module prints, which lies beside the exported one."""
    path = folder / "test.mjs"
    path.write_text(code, encoding="utf-8")
    command = ["node", str(path)]
    output = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return json.loads(output)


MODULE_TEST = """
import { about, sample, step, stream, tokenizer } from "./model.mjs";
const options = { prompt: "The ", temperature: 0, length: 20 };
const pieces = [...stream(options)].map((written) => written.text);
let found = step(0);
for (const id of tokenizer.encode("The ")) found = step(id, found.state);
const result = {
  text: sample(options), same: sample({ seed: 3 }) === sample({ seed: 3 }),
  other: sample({ seed: 3 }) === sample({ seed: 3, number: 1 }),
  first: pieces[0], last: pieces.at(-1), count: pieces.length, title: about.title,
  logits: [...found.logits],
};
console.log(JSON.stringify(result));
"""


@needs_node
def test_the_module_has_three_functions(trained, tmp_path):
    run = charlm.load(trained)
    charlm.export_run(run, "html", tmp_path / "model.mjs", embed=True, precision="fp32")
    found = run_module(tmp_path, MODULE_TEST)
    (greedy,) = run.sample(prompt="The ", temperature=0, length=20)
    assert found["text"] == found["last"] == greedy.text
    assert found["first"] == "The " and found["count"] == 4 + 20
    assert found["same"] and not found["other"]
    assert found["title"] == "text.txt"
    passage = choose_passage(run.trained, "The cat")
    np.testing.assert_allclose(
        found["logits"], compute_logits(run.trained, passage)[0][4], atol=1e-5
    )


@needs_node
@pytest.mark.parametrize(
    ("level", "direction"),
    [
        ("byte", "forward"),
        ("word", "forward"),
        ("word", "backward"),
        ("bpe", "forward"),
        ("bpe", "backward"),
        ("words between spaces", "forward"),
    ],
)
def test_greedy_texts_of_every_level_equal_those_of_charlm(text_file, tmp_path, level, direction):
    options = [f"tokenizer.level={level}", f"model.direction={direction}"]
    if level == "words between spaces":
        options[0] = "tokenizer.level=word"
        options.append("tokenizer.words=whitespace")
    if level == "bpe":
        options.append("tokenizer.vocabulary_size=300")
    train_all(small_config(text_file, *options), tmp_path / "run")
    run = charlm.load(tmp_path / "run")
    charlm.export_run(run, "html", tmp_path / "model.mjs", embed=True, precision="fp32")
    prompts = ["", "The cat", "The cat ", "The old owl sang on the roof.\n"]
    code = (
        'import { sample } from "./model.mjs";\n'
        f"const texts = {json.dumps(prompts)}.map((prompt) => "
        "sample({ prompt, temperature: 0, length: 12 }));\n"
        "console.log(JSON.stringify(texts));\n"
    )
    for prompt, text in zip(prompts, run_module(tmp_path, code), strict=True):
        (expected,) = run.sample(prompt=prompt, temperature=0, length=12, allow_unknown=True)
        assert text.rstrip("\n") == expected.text.rstrip("\n"), prompt
