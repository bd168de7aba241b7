"""The board: its format, its files, its page, and how each contestant is scored."""

import argparse
import json
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from benchmark_modules import load
from pydantic import ValidationError

from charlm.errors import CharlmError

page, board, charlm_program, lstm, transformer, peer = map(
    load, ("board_page", "board", "board_charlm", "board_lstm", "board_transformer", "board_peer")
)
SPEED = {"product_fp32": 200.0, "product_bf16": 900.0, "lstm": 300.0}
ROW = {
    "contestant": "mine",
    "version": "1",
    "settings": "LSTM 8",
    "minutes": 1,
    "seed": 1,
    "loss_nats": 1.5,
    "parameters": 10,
    "steps": 5,
    "training_seconds": 60.1,
    "total_seconds": 70.0,
    "speed_before": SPEED,
    "speed_after": SPEED,
}
CONTESTANT = """
import json, sys
train, held_out, minutes, seed = sys.argv[1:]
text = open(held_out, encoding="utf-8", newline="").read()
print("some progress")
print(json.dumps({"loss_nats": 1.0 + int(seed), "characters": len(text), "parameters": 1,
                  "steps": 2, "training_seconds": 0.01 * float(minutes), "settings": "none"}))
"""


def board_with(*rows: dict):
    """Return a board with these changes of `ROW`."""
    text = {
        "name": "a.txt",
        "sha256": "0" * 64,
        "training_characters": 90,
        "held_out_characters": 10,
    }
    machine = {"processor": "P", "cores": 2, "threads": 2, "python": "3", "torch": "2"}
    data = {"text": text, "machine": machine, "rows": [ROW | row for row in rows]}
    return page.Board.model_validate_json(json.dumps(data))


def test_every_submitted_file_has_the_form_of_the_board():
    for path in page.board_files():
        assert page.read_board(path).rows, path
        ElementTree.parse(path.with_suffix(".svg"))


def test_the_tables_of_the_page_are_those_of_the_files():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text == page.page_with(page.tables(), text), "run: make docs"


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"training_seconds": 62.1, "total_seconds": 70}, "training_seconds: must be at most 62"),
        ({"total_seconds": 60.0}, "total_seconds: must not be less"),
        ({"loss_nats": float("nan")}, "loss_nats"),
        ({"contestant": "a | b"}, "must be one line without"),
        ({"settings": "a\nb"}, "must be one line without"),
        ({"extra": 1}, "Extra inputs are not permitted"),
        ({"speed_after": None}, "speed_after"),
    ],
)
def test_a_row_that_breaks_a_rule_is_rejected(changes, problem):
    with pytest.raises(ValidationError, match=problem):
        board_with(changes)


def test_a_speed_that_changed_by_more_than_a_tenth_is_pointed_out():
    changed = board_with({}, {"seed": 2, "speed_after": SPEED | {"lstm": 331.0}})
    assert [row.changed_speeds for row in changed.rows] == [[], ["lstm"]]
    lines = [board.format_row(row) for row in changed.rows]
    assert "changed" not in lines[0]
    assert lines[1].endswith("; the speed lstm changed from 300 to 331 GFLOP/s")
    assert page.speed_line(changed).endswith("more than a tenth during 1 of 2 trainings.")


def test_a_file_of_another_form_is_not_continued(tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    for content, problem in (("{}", "text: Field required"), ("x", "file: Invalid JSON")):
        (tmp_path / "new" / "b.json").write_text(content, encoding="utf-8")
        with pytest.raises(CharlmError, match=f"b.json: {problem}.*; name another --out"):
            run_board(monkeypatch, tmp_path)


def test_the_same_training_is_on_a_board_only_once():
    board_with({"seed": 1}, {"seed": 2}, {"minutes": 5})
    with pytest.raises(ValidationError, match="are repeated"):
        board_with({"seed": 2}, {"seed": 2})


def test_the_table_has_the_median_over_the_seeds_and_the_best_contestant_first():
    losses = [1.5, 1.75, 1.25]
    rows = [{"seed": seed, "loss_nats": loss, "steps": seed} for seed, loss in enumerate(losses, 1)]
    found = list(
        page.summary_rows(board_with(*rows, {"contestant": "better", "loss_nats": 1.2, "steps": 9}))
    )
    assert [cells[:5] for cells in found] == [
        ["better", "1", "1", "1.200", "9"],
        ["mine", "1", "3", "1.500 (1.250 to 1.750)", "1"],
    ]


def test_the_plot_is_an_svg_file_with_a_line_for_each_contestant():
    rows = [{"minutes": 5, "training_seconds": 300, "total_seconds": 310, "loss_nats": 1.3}]
    drawn = page.draw(board_with({}, *rows, {"contestant": "b", "loss_nats": 1.2}))
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
    assert {"mine", "b", "Nats per character, held-out text"} <= set(texts)


def test_the_split_is_the_last_tenth_and_no_character_is_lost(tmp_path):
    path = tmp_path / "a.txt"
    text = "ab\r\nü" * 21
    path.write_bytes(text.encode())
    read = board.read_text(path)
    parts = [part.read_bytes().decode() for part in board.write_parts(read, tmp_path)]
    assert "".join(parts) == text
    facts = board.describe_text("a.txt", read)
    assert [len(part) for part in parts] == [facts.training_characters, facts.held_out_characters]
    assert [len(part) for part in parts] == [94, 11]


def run_board(monkeypatch, folder, *arguments: str, contestant: str = CONTESTANT) -> None:
    """Run the command without the measurement of the machine."""
    (folder / "mine.py").write_text(contestant, encoding="utf-8")
    (folder / "a.txt").write_text("some text\n" * 10, encoding="utf-8")
    monkeypatch.setattr(board, "machine_speed", lambda: board.Speed(**SPEED))
    monkeypatch.setattr(board.torch, "set_num_threads", lambda threads: None)
    program = f"mine={folder / 'mine.py'}"
    out = ["--program", program, "--only", "mine", "--out", str(folder / "new" / "b.json")]
    monkeypatch.setattr("sys.argv", ["board.py", str(folder / "a.txt"), *out, *arguments])
    board.main()


def test_a_training_that_the_file_contains_is_not_repeated(tmp_path, monkeypatch, capsys):
    run_board(monkeypatch, tmp_path, "--minutes", "1")
    assert "mine: 2.0000 nats" in capsys.readouterr().out
    run_board(monkeypatch, tmp_path, "--minutes", "1", "--seeds", "2")
    output = capsys.readouterr().out
    assert "seed 1, mine" not in output and "seed 2, mine: 3.0000 nats" in output
    rows = page.read_board(tmp_path / "new" / "b.json").rows
    assert [(row.seed, row.loss_nats) for row in rows] == [(1, 2.0), (2, 3.0)]
    assert "mine" in (tmp_path / "new" / "b.svg").read_text(encoding="utf-8")
    with pytest.raises(CharlmError, match="its machine is another one"):
        run_board(monkeypatch, tmp_path, "--threads", "1")


def test_a_contestant_that_leaves_out_characters_is_rejected(tmp_path, monkeypatch):
    short = CONTESTANT.replace("len(text)", "len(text) - 1")
    with pytest.raises(CharlmError, match="characters: must be 10, got 9"):
        run_board(monkeypatch, tmp_path, contestant=short)


def peer_task(held_out: int = 21):
    """Return a task of random ids."""
    torch.manual_seed(0)
    ids = torch.randint(5, (400 + held_out,))
    return peer.Task(ids[:400], ids[400:], vocabulary_size=5, minutes=1)


@pytest.mark.parametrize("program", [lstm, transformer])
def test_a_peer_predicts_every_character_once_and_from_earlier_ones(program):
    task = peer_task()
    network = program.Network(5).eval()
    before = list(program.predict(network, task))
    targets = torch.cat([targets.flatten() for _, targets in before])
    assert torch.equal(targets, task.held_out)
    changed = task.held_out.clone()
    changed[10:] = (changed[10:] + 1) % 5
    after = list(program.predict(network, peer.Task(task.train, changed, 5, 1)))
    first, second = (
        torch.cat([part.flatten(0, -2) for part, _ in some]) for some in (before, after)
    )
    torch.testing.assert_close(first[:11], second[:11])
    assert not torch.allclose(first[11:], second[11:])


@pytest.mark.parametrize("program", [lstm, transformer])
def test_a_peer_learns_in_its_time(program, capsys, monkeypatch):
    monkeypatch.setattr(program, "BATCH", 4)
    task = peer.Task(torch.arange(400) % 5, torch.arange(50) % 5, vocabulary_size=5, minutes=0.7)
    network = program.Network(5)
    module = peer_module(program)
    monkeypatch.setattr(module, "faster_precision", lambda step: "fp32")
    clock = SimpleNamespace(perf_counter=iter(range(100)).__next__)
    monkeypatch.setattr(module, "time", clock)
    program.compete(task, network, program.Training, program.predict, lambda progress: 5e-3, "x")
    result = json.loads(capsys.readouterr().out)
    assert result["characters"] == 50 and result["settings"] == "x, fp32"
    assert (result["steps"], result["training_seconds"]) == (41, 42)
    assert result["loss_nats"] < 0.5  # The logarithm of 5 is 1.61.


def peer_module(program):
    """Return the module in which the function `compete` of a peer looks up its helpers."""
    return sys.modules[program.compete.__module__]


def test_the_learning_rate_of_a_peer_rises_and_falls():
    rates = [peer.rate_factor(progress, warm_up=0.1, last=0.2) for progress in (0.05, 0.1, 0.55, 1)]
    assert rates == pytest.approx([0.5, 1.0, 0.6, 0.2])
    assert peer.rate_factor(2.0) == pytest.approx(0)


def test_charlm_is_scored_at_its_last_step_and_per_held_out_character(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 60, encoding="utf-8")
    (tmp_path / "b.txt").write_text("the dog sat\n" * 9, encoding="utf-8")
    tiny = ["model.hidden_size=8", "model.embedding_size=8", "training.batch_size=2"]
    options = argparse.Namespace(
        train=tmp_path / "a.txt",
        held_out=tmp_path / "b.txt",
        minutes=1.0,
        seed=7,
        config="shakespeare",
        overrides=[*tiny, "training.minutes=null", "training.steps=3"],
    )
    result = charlm_program.measure(options, tmp_path / "run")
    assert (result.characters, result.steps) == (108, 3)
    run = charlm_program.charlm.load(tmp_path / "run", which="last")
    score = run.perplexity(split="valid")
    total_nats = score.loss_nats * score.tokens + score.restoration_nats
    assert result.loss_nats == pytest.approx(total_nats / 108)
    assert "configuration shakespeare, lstm 8, batch 2" in result.settings


def test_charlm_chooses_its_settings_for_the_training_text(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 60, encoding="utf-8")
    (tmp_path / "b.txt").write_text("the dog sat\n" * 9, encoding="utf-8")
    options = argparse.Namespace(
        train=tmp_path / "a.txt",
        held_out=tmp_path / "b.txt",
        minutes=0.5,
        seed=7,
        config=None,
        overrides=["model.hidden_size=8"],
    )
    monkeypatch.setattr(
        "charlm.runs.automatic.device.measured_speed", lambda *_, **__: lambda size: 1e4
    )
    config = charlm_program.configure(options)
    assert config.corpus.text == (str(tmp_path / "a.txt"),)
    assert config.corpus.valid_text == (str(tmp_path / "b.txt"),)
    assert config.training.seed == 7
