"""The model card: what is in it, and that no text of a corpus can add anything else."""

import re

import pytest
import yaml
from conftest import small_config, train_all
from export.models import random_model

import charlm
from charlm.config.load import load_config
from charlm.data.resolve import resolve
from charlm.export.card import card_of, code_block, escape_markdown


@pytest.fixture(scope="module")
def records_card(trained_records) -> str:
    return charlm.model_card(charlm.load(trained_records))


def test_a_card_has_text_score_samples_use_and_cost(records_card, trained_records):
    run = charlm.load(trained_records)
    score = run.perplexity()
    assert records_card.startswith("---\ntags:\n- charlm\n")
    headings = re.findall(r"^#+ (.*)$", records_card, re.MULTILINE)
    assert headings == ["records.txt", "Text", "Score", "Samples", "Use", "Training"]
    assert "A recurrent language model over characters: LSTM, 16 units" in records_card
    assert "| read as | records (lines) of characters |" in records_card
    assert "| licence of the text | not stated |" in records_card
    assert f"| {score.loss_nats:.4f} | {score.perplexity:.3f} |" in records_card
    assert "zero at each record" in records_card and "step 60" in records_card
    names = [each.text for each in run.sample(count=10, temperature=0.8, seed=1, length=200)]
    assert "```text\n" + "\n".join(names) + "\n```" in records_card
    for target in ("html", "onnx", "torch", "transformers"):
        assert f"charlm export records --to {target} --out records" in records_card
    state = run.state
    assert f"60 steps in {state['seconds']:.1f} seconds on 1 core: " in records_card
    assert state["cores"] == 1 and state["device"] == "cpu"


def test_the_settings_of_a_card_make_the_same_run_and_show_no_folder(
    records_card, trained_records, tmp_path, records_file, monkeypatch
):
    (tmp_path / "records.txt").write_bytes(records_file.read_bytes())
    settings = re.search(r"```yaml\n(.*?)\n```", records_card, re.DOTALL)[1]
    (tmp_path / "model.yaml").write_text(settings, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ours = charlm.load(trained_records).config
    again = resolve(load_config("model.yaml"))
    assert again.model_dump(exclude={"corpus"}) == ours.model_dump(exclude={"corpus"})
    assert again.corpus.model_dump(exclude={"text"}) == ours.corpus.model_dump(exclude={"text"})
    assert again.corpus.text == (str(tmp_path / "records.txt"),)
    assert str(records_file.parent) not in records_card


def test_a_corpus_with_a_card_has_its_licence_language_and_source(trained):
    run = charlm.load(trained).trained
    corpus = run.config.corpus.model_copy(update={"text": ("agreement",)})
    object.__setattr__(run, "config", run.config.model_copy(update={"corpus": corpus}))
    text = card_of(run, None)
    assert re.search(r"^\| language \| en \|$", text, re.MULTILINE)
    assert re.search(r"^\| source \| .+ \|$", text, re.MULTILINE)
    assert "licence of the text | not stated" not in text
    assert "During training: " in text and "nats per token" in text


HOSTILE = "a <script>x</script> [b](javascript:c) `d` | e\n# f\u202e \\ *g*\x1b[2J"


def test_nothing_in_a_title_is_markup():
    escaped = escape_markdown(HOSTILE)
    assert "\n" not in escaped and "\x1b" not in escaped and "\u202e" not in escaped
    assert not re.search(r"(?<!\\)[<>\[\]`|*#(:]", escaped)


def test_a_sample_cannot_leave_its_block():
    block = code_block("a ``` b ```` c\n```\n# d")
    assert block.startswith("`````text\n") and block.endswith("\n`````")
    assert code_block("\x1b[2J\u202e") == "```text\n[U+001B][2J[U+202E]\n```"


def test_a_hostile_title_of_a_file_stays_in_its_place(tmp_path, text_file):
    name = "# x `y` <b> | [z](u)\n.txt"
    path = tmp_path / name
    path.write_bytes(text_file.read_bytes())
    train_all(small_config(text_file), tmp_path / "run")
    run = charlm.load(tmp_path / "run").trained
    corpus = run.config.corpus.model_copy(update={"text": (str(path),)})
    object.__setattr__(run, "config", run.config.model_copy(update={"corpus": corpus}))
    text = card_of(run, None)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert len(headings) == 6 and headings[0].startswith(r"\# x \`y\` \<b\>")
    assert "<b>" not in text.replace(r"\<b\>", "").replace("```yaml", "").split("## Training")[0]
    settings = yaml.safe_load(re.search(r"```+yaml\n(.*?)\n```", text, re.DOTALL)[1])
    assert settings["corpus"]["text"] == name


def test_models_of_both_directions_and_imported_ones_have_a_card():
    both = random_model({"direction": "both"})
    assert "writes no text from one end to the other" in card_of(both, None)
    assert "charlm export" not in card_of(both, None)
    imported = card_of(random_model(), None)
    assert "how it was trained is not known" in imported
    assert "Imported with charlm" in imported and "Trained with" not in imported


def test_the_card_of_a_transformers_folder_shows_how_to_load_it(trained):
    text = card_of(charlm.load(trained).trained, None, target="transformers")
    assert "library_name: transformers" in text
    assert "AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)" in text


def test_the_command_prints_or_writes_a_card(trained, tmp_path, capfd, monkeypatch):
    from charlm.cli.main import run

    monkeypatch.chdir(tmp_path)
    assert run(["card", str(trained)]) == 0
    printed = capfd.readouterr().out
    assert run(["card", str(trained), "--out=README.md"]) == 0
    assert capfd.readouterr().out == "README.md\n"
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == printed
    assert run(["card", str(trained), "--out=README.md"]) == 1
    assert "README.md: the file exists" in capfd.readouterr().err
    assert run(["card", str(trained), "--out=README.md", "--force"]) == 0
