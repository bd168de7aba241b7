"""lm-evaluation-harness on a served run: the scores of charlm's own commands.

The harness has 70 packages, so it is in an environment of its own; docs/serve.md has the commands.
CHARLM_LM_EVAL names its program if it is not on the path.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import TEXT, small_config, train_all
from serving.servers import loaded, running

from charlm.api import Run, load

LEVELS = ["char", "byte", "word", "bpe"]
# So long that the <EOS> at the end of a file, which the harness does not score, hardly counts.
SCORED = TEXT * (300_000 // len(TEXT))
RIGHT = "The {noun} {verb} on the {place}."
WRONG = ["The {verb} {noun} on the {place}.", "The {noun} {other} on the {place}."]
ROLLING = """
task: rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""
PAIRS = """
task: pairs
output_type: multiple_choice
doc_to_text: ""
doc_to_choice: "{{[right, wrong]}}"
doc_to_target: 0
target_delimiter: ""
metric_list:
  - metric: acc
"""
STOP = """
task: stop
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: ""
generation_kwargs:
  until: ["{until}"]
  max_gen_toks: 60
  do_sample: false
metric_list:
  - metric: exact_match
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def program() -> str:
    found = os.environ.get("CHARLM_LM_EVAL") or shutil.which("lm_eval")
    if found is None:
        pytest.skip("lm-evaluation-harness is not installed; see docs/serve.md")
    return found


@pytest.fixture(scope="module")
def runs(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("levels")
    found = {}
    for level in LEVELS:
        overrides = [f"tokenizer.level={level}", "training.steps=60", "training.learning_rate=2e-2"]
        overrides += ["tokenizer.vocabulary_size=280"] if level == "bpe" else []
        train_all(small_config(text_file, *overrides), folder / level)
        found[level] = load(folder / level, device="cpu")
    return found


def pairs() -> list[tuple[str, str]]:
    """Sentences with another order of words, and with another verb, which is often as probable."""
    verbs = ["sat", "slept", "sang"]
    return [
        (
            RIGHT.format(noun=noun, verb=verb, place=place),
            wrong.format(noun=noun, verb=verb, other=verbs[verbs.index(verb) - 1], place=place),
        )
        for wrong in WRONG
        for noun in ("cat", "dog")
        for verb in verbs
        for place in ("mat", "roof", "lawn", "wall")
    ]


def write_task(folder: Path, task: str, rows: list[dict[str, str]]) -> None:
    name = task.split()[1]
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    where = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test"
    )
    (folder / f"{name}.yaml").write_text(f"{task}{where}\n", encoding="utf-8")


def evaluate(program: str, url: str, level: str, folder: Path) -> dict:
    """Run the harness; return its results and the rows of its tasks."""
    server = f"model={level},base_url={url}/v1/completions"
    arguments = ["--model_args", f"{server},tokenizer_backend=auto,max_length=1000000"]
    arguments += ["--include_path", str(folder), "--tasks", "rolling,pairs,stop"]
    arguments += ["--batch_size", "2", "--log_samples", "--output_path", str(folder / "out")]
    done = subprocess.run(
        [program, "run", "--model", "local-completions", *arguments],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (results,) = folder.glob("out/*/results_*.json")
    (samples,) = folder.glob("out/*/samples_stop_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return json.loads(results.read_text(encoding="utf-8"))["results"] | {"texts": rows}


def environment(folder: Path) -> dict[str, str]:
    """Return an environment without a network and without this environment's packages."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    return kept | offline


@pytest.mark.parametrize("level", LEVELS)
def test_the_harness_finds_the_scores_of_charlm(program, runs, level, tmp_path):
    run = runs[level]
    prompts = ["The cat", "The old", "The dog"]
    whole = run.sample(prompt=prompts[0], temperature=0, length=60)[0].text
    until = whole[12:14]  # So that a text has it.
    write_task(tmp_path, ROLLING, [{"text": SCORED}])
    write_task(tmp_path, PAIRS, [{"right": right, "wrong": wrong} for right, wrong in pairs()])
    stop = STOP.replace('"{until}"', json.dumps(until))
    write_task(tmp_path, stop, [{"text": text} for text in prompts])
    file = tmp_path / "pairs.txt"
    file.write_text("".join(f"{a}\t{b}\n" for a, b in pairs()), encoding="utf-8")

    with running(loaded(run.folder)) as url:
        found = evaluate(program, url, level, tmp_path)

    own = run.perplexity(SCORED)
    assert own.unknown_share == 0
    assert found["rolling"]["bits_per_byte,none"] == pytest.approx(own.bits_per_byte, abs=1e-4)
    accuracy = run.agreement(file).accuracy
    assert found["pairs"]["acc,none"] == pytest.approx(accuracy)
    assert 0.6 < accuracy < 1, "at chance, or not able to fail"
    stops = 0
    for row in found["texts"]:
        (text,) = row["resps"][0]
        (whole,) = run.sample(prompt=row["doc"]["text"], temperature=0, length=60)
        new = whole.text.removeprefix(row["doc"]["text"])
        assert text == new.partition(until)[0]
        stops += until in new
    assert stops, "no text has the stop text"
