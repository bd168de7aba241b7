"""Wrong values of every option and argument: one line that names the option, and nothing written.

The cases come from the command tree, so that a new option is tested automatically. Wrong numbers,
choices and flags follow from type and range; wrong texts and paths are in `WRONG`, and a test fails
if an option is missing there.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import safetensors.torch
import torch
import typer  # noqa: TID251 - it walks the command tree
from conftest import TEXT, small_config, train_all

from charlm.cli import main

TREE = typer.main.get_command(main.app)
NOT_UTF8, TOO_LONG = (
    "\udcff",
    "x" * 300,
)  # A byte that is not UTF-8, as Python passes it; a name that is too long for a file.
NUMBERS = {
    int: ["", "x", "1.5", "nan", "inf", "9" * 30],
    float: ["", "x", "nan", "inf", "-inf", "1e400", "-1"],
}
# A state dict to import: an LSTM of one unit over two characters.
STATE_DICT = {
    "embedding.weight": torch.zeros(2, 3),
    "rnn.weight_ih_l0": torch.zeros(4, 3),
    "rnn.weight_hh_l0": torch.zeros(4, 1),
    "projection.weight": torch.zeros(2, 1),
}
# Other arguments that make the command valid except for the tested option.
BESIDE = {
    "sample --api-key-file": ["run", "--url=http://127.0.0.1:1"],
    # Any free port: a wrong value that is not refused must not occupy the usual one.
    "serve": ["run", "--port=0"],
    "serve --port": ["run"],
    "train": ["text.txt"],
    "train --resume": [],
    "train --from-vocabulary": ["text.txt", "--from=run"],
    "tune": ["text.txt", "--search", "model.hidden_size=8,16", "--trials", "1"],
    "tune --search": ["text.txt"],
    "tune TEXT": ["--search", "model.hidden_size=8,16", "--trials", "1"],
    "tune --resume": [],
    "compress": ["run", "text.txt"],
    "compress --run": ["text.txt"],
    "decompress": ["small.charlm"],
    "sample --run": [],
    "inspect --run": [],
    "eval perplexity --run": [],
    "eval task --run": [],
    "predict --run": [],
    "eval agreement --run": [],
    "eval parity": ["run"],
    "eval parity --run": [],
    "eval gradients --run": [],
    "eval memory --run": [],
    "eval context --run": [],
    "eval cells --run": [],
    "eval tokens --run": [],
    "eval novelty --run": [],
    "eval sentences --run": ["text.txt"],
    "eval sentences": ["run", "text.txt"],
    "eval compare": ["run", "run"],
    "corpus build": ["agreement"],
    "corpus fetch": ["names"],
    "config show": [],
    "cache": [],
    "export": ["run", "--to=torch", "--out=new"],
    "export --run": ["--to=torch", "--out=new"],
    "export --to": ["run", "--out=new"],
    "export --out": ["run", "--to=torch"],
    "export RUN": ["--to=torch", "--out=new"],
    "card": ["run"],
    "card --run": [],
    "import": ["x.safetensors", "--cell=lstm", "--tokenizer=chars.json", "--eos=b", "--out=new"],
    "import --cell": ["x.safetensors", "--tokenizer=chars.json", "--eos=b", "--out=new"],
    "import --tokenizer": ["x.safetensors", "--cell=lstm", "--eos=b", "--out=new"],
    "import --out": ["x.safetensors", "--cell=lstm", "--tokenizer=chars.json", "--eos=b"],
    "import --eos": ["x.safetensors", "--cell=lstm", "--tokenizer=chars.json", "--out=new"],
    "import FILE.safetensors": ["--cell=lstm", "--tokenizer=chars.json", "--eos=b", "--out=new"],
}
# Wrong texts and paths, with the exit status: 2 if no file or run could make them right, else 1. An
# entry with the name of a command takes precedence over one without.
FILE = {"": 2, "missing": 1, "folder": 1, TOO_LONG: 1}
TARGET = {"": 2, "folder": 2, "file/x": 2, TOO_LONG: 1}
RUN = {"": 2, "missing": 1, "file": 1, "folder": 1, TOO_LONG: 1}
WRONG: dict[str, dict[str, int]] = {
    "--config": FILE,
    "--resume": RUN,
    "--run": RUN,
    "--text": FILE,
    "--text-file": FILE,
    "view --text": {"": 2, NOT_UTF8: 2},
    "eval memory --text": {"": 2, NOT_UTF8: 2},
    "view --out": TARGET,
    "card --out": TARGET,
    "--only": {"": 2, "nonsense": 2, "curves,": 2},
    "--from": FILE,
    "train --from": RUN,
    "--prompt-file": FILE,
    "--state-in": FILE,
    "--state-out": TARGET,
    "--to": TARGET,
    "--corpus": {"": 2, "missing": 1, "folder": 1, TOO_LONG: 1, NOT_UTF8: 1},
    "--out": {"": 2, "file": 1, TOO_LONG: 1},
    "--set": {
        "": 2,
        "model": 2,
        "model.hidden_size": 2,
        "=": 2,
        "a=b": 2,
        "model.hidden_size=0": 2,
        "training.steps=x": 2,
        "model.nonsense=1": 2,
        "training.learning_rate=.nan": 2,
        "training.steps={": 2,
        f"training.device={NOT_UTF8}": 2,
    },
    "corpus build --set": {"": 2, "sentences": 2},
    "--search": {
        "": 2,
        "model": 2,
        "a=b": 2,
        "model.hidden_size=8": 2,
        "model.hidden_size=8..4": 2,
        "model.hidden_size=0..4": 2,
        "model.nonsense=1,2": 2,
        "corpus.text=a,b": 2,
        "training.steps=1,2": 2,
    },
    "--storage": {
        "": 2,
        "x": 2,
        "sqlite:///x.db": 2,
        "postgresql://host": 2,
        "postgresql://host:x/data": 2,
        NOT_UTF8: 2,
        "postgresql://127.0.0.1:1/data": 1,
    },
    "--study": {"": 2, "a b": 2, "../a": 2, "x" * 101: 2, NOT_UTF8: 2},
    "--device": {"": 2, "gpu": 2, "cuda:": 2, "cuda:x": 2, "cuda:-1": 2, "cpu:0": 2, "cuda:99": 1},
    "eval perplexity --temperature": {"": 2, "x": 2, "0": 2, "-1": 2, "nan": 2, "inf": 2},
    "--prompt": {NOT_UTF8: 2, "The Žebra": 1},
    "--ban": {"": 2, NOT_UTF8: 2},
    "--until": {"": 2, NOT_UTF8: 2},
    "--fill": {"": 2, NOT_UTF8: 2},
    "--source-file": FILE,
    "--source": {"": 2, NOT_UTF8: 2, "The Žebra": 1},
    "--matching": {NOT_UTF8: 2, "(": 1, "Ž": 1},
    "RUN": RUN,
    "RUN...": RUN,
    "RUN RUN...": {"": 2, "run": 2},
    "RUN|TEXT": {"": 2, "missing": 1},
    "RUN|FILE": {"": 2},
    "eval novelty RUN|FILE": {"": 2, "missing": 1, TOO_LONG: 1},
    "RUN|PAIRS": {"": 2, "missing": 1},
    "TEXT": {"": 2, "missing": 1, "folder": 1, "empty": 1, TOO_LONG: 1, NOT_UTF8: 1},
    "[RUN] FILE": {"": 2},
    "decompress [RUN] FILE": {"": 2, "text.txt": 2, "missing.charlm": 1},
    "NAME": {"": 2, "nonsense": 1, "../names": 1},
    "config show FILE": FILE,
    "--seeds": {"": 2, "x": 2, "1..": 2, "3..1": 2, "-1": 2, "1,1": 2},
    "--at": {"": 2, "nonsense": 2},
    "--remove": {"": 2, "nonsense": 2, "../names": 2},
    "--url": {"": 2, "x": 2, "ftp://127.0.0.1": 2, "http://127.0.0.1:1": 1, NOT_UTF8: 2},
    "--api-key-file": FILE,
    "--host": {"": 2, "a b": 2, "0.0.0.0": 2, "http://127.0.0.1": 2, NOT_UTF8: 2},
    "--allow-host": {"": 2, "a b": 2, "http://x": 2, NOT_UTF8: 2},
    "--allow-origin": {"": 2, "*": 2, "example.org": 2, "https://a/b": 2, NOT_UTF8: 2},
    "FOLDER": {"": 2, "missing": 1, TOO_LONG: 1},
    "FILE.safetensors": FILE,
    "--tokenizer": FILE,
    "--gates": {"": 2, "ifg": 2, "abcd": 2, NOT_UTF8: 2},
    "--eos": {"": 2, "c": 2, NOT_UTF8: 2},
    "--unknown": {"": 2, "c": 2, NOT_UTF8: 2},
    "--embedding": {"": 2, "nonsense": 2, NOT_UTF8: 2},
    "--projection": {"": 2, "nonsense": 2, NOT_UTF8: 2},
    "--layers": {"": 2, "nonsense": 2, NOT_UTF8: 2},
}


def commands(
    group=TREE, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def label(parameter) -> str:
    """Return the name of an option, or the placeholder of an argument in the help."""
    first = parameter.opts[0]
    return first if first.startswith("-") else parameter.metavar or first.upper()


COMMANDS = dict(commands())
PARAMETERS = {
    (name, label(parameter)): parameter
    for name, command in COMMANDS.items()
    for parameter in command.params
}


def derived(parameter) -> dict[str, int] | None:
    """Return wrong values by type and range, with the status; None if they say nothing."""
    kind = parameter.type_descriptor.annotation
    if get_origin(kind) is Literal:
        return dict.fromkeys(["", "nonsense", get_args(kind)[0].upper()], 2)
    if kind not in NUMBERS:
        return None
    step = 1 if kind is int else 0.001
    ends = [(parameter.min, -step), (parameter.max, step)]
    return dict.fromkeys(
        [*NUMBERS[kind], *(repr(end + beyond) for end, beyond in ends if end is not None)], 2
    )


def wrong(name: str, parameter) -> dict[str, int] | None:
    found = derived(parameter)
    return (
        found
        if found is not None
        else WRONG.get(f"{name} {label(parameter)}", WRONG.get(label(parameter)))
    )


def arguments(name: str, parameter, value: str) -> list[str]:
    if not label(parameter).startswith("-"):
        return [*name.split(), value, *BESIDE.get(f"{name} {label(parameter)}", [])]
    beside = BESIDE.get(f"{name} {label(parameter)}", BESIDE.get(name, ["run"]))
    return [*name.split(), *beside, f"{label(parameter)}={value}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a run, a text, a file that is neither, and an empty folder."""
    folder = tmp_path_factory.mktemp("usage")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    for name in ("file", "small.charlm"):
        (folder / name).write_text("neither", encoding="utf-8")
    (folder / "empty").write_text("", encoding="utf-8")
    (folder / "folder").mkdir()
    (folder / "chars.json").write_text('["a", "b"]', encoding="utf-8")
    safetensors.torch.save_file(STATE_DICT, folder / "x.safetensors")
    train_all(small_config(folder / "text.txt", "training.steps=2"), folder / "run")
    return folder


def everything_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def refused(folder, capfd, monkeypatch):
    """Run a command that must fail with one line and write nothing; return the line."""
    monkeypatch.chdir(folder)
    before = everything_in(folder)

    def run(arguments: list[str], status: int) -> str:
        capfd.readouterr()
        found = main.run(arguments)
        out, err = capfd.readouterr()
        assert (found, out) == (status, ""), f"{arguments}: {err}"
        assert err.count("\n") == 1 and err.endswith("\n"), f"{arguments}: {err}"
        assert everything_in(folder) == before, arguments
        return err

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_value_is_reported_in_one_line_that_names_the_option_or_the_place(refused, name):
    for parameter in COMMANDS[name].params:
        check_wrong_values(refused, name, parameter)


def check_wrong_values(refused, name: str, parameter) -> None:
    called = label(parameter)
    if parameter.type_descriptor.annotation is bool:
        assert called in refused([*name.split(), f"{called}=1"], 2)
        return
    cases = wrong(name, parameter)
    assert cases, f"no wrong values for {called} of {name}: add them to WRONG"
    for value, status in cases.items():
        line = refused(arguments(name, parameter, value), status)
        is_place = bool(value) and (status == 1 or not called.startswith("-"))
        named = [called, value] if is_place else [called]
        assert any(text.encode("utf-8", "backslashreplace").decode() in line for text in named), (
            f"{name} {called} {value!r}: {line}"
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_and_a_missing_value_are_reported(refused, name):
    assert "--nonsense" in refused([*name.split(), "--nonsense"], 2)
    for parameter in COMMANDS[name].params:
        called = label(parameter)
        if called.startswith("-") and parameter.type_descriptor.annotation is not bool:
            assert called in refused([*name.split(), called], 2)


def test_every_entry_belongs_to_an_existing_option():
    labels = {called for _, called in PARAMETERS} | {
        f"{name} {called}" for name, called in PARAMETERS
    }
    assert set(WRONG) <= labels
    assert set(BESIDE) <= labels | set(COMMANDS)


# A valid value by type.
VALID = {int: "3", float: "0.5", str: "a", list[str]: "a", Path: "file"}
FILTERS = (
    *("top_k", "top_p", "min_p", "typical", "epsilon", "eta"),
    *("repetition_penalty", "repetition_window"),
)
STATES = ("state_in", "state_out")
# Options of `charlm sample`, and those that cannot be used together with them.
CONFLICTS = {
    "fill": (
        *(*FILTERS, "no_repeat_ngram", "ban", "beams", "best_of", "length_penalty", "prompt"),
        *("prompt_file", "characters", "until", "novel", "max_copy", "matching", *STATES),
        "interactive",
    ),
    "beams": (
        *("temperature", *FILTERS, "best_of", "novel", "max_copy", "matching", *STATES),
        *("interactive", "seed"),
    ),
    "interactive": (
        *("count", "best_of", "novel", "max_copy", "matching", "as_json", "prompt"),
        *("prompt_file", "next_tokens", *STATES),
    ),
    "source": (
        *("temperature", *FILTERS, "no_repeat_ngram", "ban", "best_of", "length_penalty", "novel"),
        *("max_copy", "matching", "characters", "until", "seed", *STATES, "fill", "interactive"),
        *("prompt", "prompt_file", "next_tokens", "count", "url", "int8", "source_file"),
    ),
    "source_file": ("temperature", "prompt", "prompt_file", "count", "url", "seed", "source"),
    "next_tokens": (
        *("temperature", *FILTERS, "ban", "best_of", "length_penalty", "novel", "max_copy"),
        *("matching", "length", "characters", "until", "seed", *STATES, "beams", "fill"),
    ),
    "state_in": ("count", "best_of", "novel", "max_copy"),
    "state_out": ("count", "best_of", "novel", "max_copy"),
    "matching": ("characters", "until", "max_copy", *STATES),
    "prompt_file": ("prompt",),
    "url": ("fill", "beams", "interactive", "novel", "next_tokens", *STATES),
    "raw": ("next_tokens",),
}
# What cannot stand together, and what the line names.
TOGETHER = {
    "train --steps=3 --minutes=1": "--minutes and --steps",
    "train --steps=3 --epochs=1": "--steps and --epochs",
    "train --minutes=3 --epochs=1": "--minutes and --epochs",
    "train text.txt --resume=run": "TEXT",
    **{
        f"train --resume=run {option}=names": option
        for option in ("--corpus", "--config", "--set", "--out")
    },
    "train --resume=run --seed=3": "--seed",
    "train --resume=run --task=complete": "--task",
    "train --resume=run --seed=0": "--seed",
    "tune text.txt --resume=run": "TEXT",
    **{
        f"tune --resume=run {option}=names": option
        for option in ("--corpus", "--config", "--search", "--out")
    },
    "tune --resume=run --seed=3": "--seed",
    "tune --resume=run --study=a": "--study",
    "tune text.txt --search=model.hidden_size=8,16 --trials=1 --study=a": "--study",
    "compress run text.txt --out=- --json": "--json",
    "compress run text.txt text.txt": "[RUN] FILE",
    "eval perplexity run --int8 --precision=bf16": "--precision",
    "eval compare run": "RUN RUN...",
    "view run --text=The --only=curves": "--only",
    "view run --text-file=text.txt --only=curves,context": "--only",
    "view run --text=The --text-file=text.txt": "--text",
    "export run --to=onnx --out=new --int8 --precision=fp32": "--int8",
    "export run --to=html --out=new --new-only --embed": "--new-only",
    "train --from-vocabulary=grow text.txt": "--from",
    "train text.txt --seeds=1..2 --seed=3": "--seeds",
    "eval novelty run text.txt text.txt": "RUN|FILE",
    "eval agreement run text.txt text.txt": "PAIRS",
    "eval agreement run text.txt --longest=2": "--longest",
    "eval novelty run text.txt --temperature=0.5": "--temperature",
    "eval memory run text.txt --text=The": "TEXT",
    "eval memory run --text=The --split=valid": "--split",
    "eval memory run --text=text.txt": "--text",
    "view run --text=text.txt": "--text",
    "eval sentences run text.txt text.txt": "FILE",
    "inspect run run": "run",
    **{
        f"{command} run --run=run": "--run"
        for command in (
            *("sample", "inspect", "eval perplexity", "eval agreement", "eval gradients"),
            *("eval tokens", "eval novelty", "eval sentences"),
        )
    },
    "compress run text.txt --run=run": "--run",
    "decompress run small.charlm --run=run": "--run",
    "decompress run small.charlm small.charlm": "[RUN] FILE",
}


def test_conflicting_options_are_reported_in_one_line_that_names_one(refused):
    for command, name in TOGETHER.items():
        assert name in refused(command.split(), 2), command


def test_every_conflict_of_sample_is_reported_in_one_line_that_names_the_option(refused):
    options = {parameter.name: parameter for parameter in COMMANDS["sample"].params}

    def argument(name: str) -> str:
        kind = options[name].type_descriptor.annotation
        return label(options[name]) + ("" if kind is bool else f"={VALID[kind]}")

    for option, others in CONFLICTS.items():
        for other in others:
            line = refused(["sample", "run", argument(option), argument(other)], 2)
            assert label(options[other]) in line, line


@pytest.mark.parametrize(
    "command",
    [
        "train text.txt",
        "tune text.txt --search model.hidden_size=2,4 --trials 1",
        "export run --to torch",
        "import weights.safetensors",
        "compress run text.txt",
        "decompress run text.txt",
    ],
)
def test_a_folder_below_a_file_is_refused_before_any_work(refused, command):
    message = refused([*command.split(), "--out", "text.txt/new"], 2)
    assert "--out" in message and "text.txt is not a folder" in message


def test_a_folder_with_runs_is_no_text(refused, folder, tmp_path):
    (tmp_path / "run").symlink_to(folder / "run")
    message = refused(["eval", "perplexity", str(tmp_path)], 1)
    assert f"{tmp_path}: is not a run folder, but contains some; name one of them" in message


def test_an_option_without_its_argument_names_the_help_of_the_command(refused):
    for command, option in (("sample", "--length"), ("eval perplexity", "--streams")):
        message = refused([*command.split(), option], 2)
        assert message.startswith(f"charlm {command}: Option '{option}' requires an argument")
        assert message.endswith(f"(see charlm {command} --help)\n")


def test_a_folder_of_trials_is_no_text_and_one_with_a_checkpoint_is_named(
    refused, folder, tmp_path
):
    for name in ("0", "1"):
        shutil.copytree(folder / "run", tmp_path / "search" / "trials" / name)
    for checkpoint in ("best", "last"):
        shutil.rmtree(tmp_path / "search" / "trials" / "0" / checkpoint)
    for command in (["eval", "perplexity"], ["sample"]):
        message = refused([*command, str(tmp_path / "search")], 1)
        assert f"such as {tmp_path / 'search' / 'trials' / '1'}" in message
        message = refused([*command, str(tmp_path / "search" / "trials" / "0")], 1)
        assert "trials/0: has no checkpoint; name another run" in message


def test_a_checkpoint_is_no_text(refused, folder):
    message = refused(["eval", "perplexity", str(folder / "run" / "best")], 1)
    assert f"is inside a run folder; name the run: {folder / 'run'}" in message


def test_a_text_in_the_posix_locale_is_utf8_on_both_sides():
    """The prompt reaches a command as it was typed, and is printed as it was typed."""
    code = (
        "from charlm.cli import main, options; "
        "main.run = lambda words: print(*map(options.some_text, words), input()) or 0; main.main()"
    )
    for coding, status in (("utf-8", 0), ("latin-1", 1)):
        done = subprocess.run(
            [sys.executable, "-c", code, "Café für".encode(coding)],
            capture_output=True,
            input="naïve\n".encode(),
            env={**os.environ, "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"},
        )
        assert done.returncode == status, done.stderr
        assert done.stdout.decode() == ("" if status else "Café für naïve\n")
        assert (b"is not UTF-8: byte 0xe9" in done.stderr) == bool(status)


def test_an_option_that_is_a_setting_is_answered_with_its_name(capsys):
    for option, setting in {
        "--lr": "training.learning_rate",
        "--hidden": "model.hidden_size",
        "--layers": "model.num_layers",
        "--cell": "model.cell",
        "--batch": "training.batch_size",
        "--batch-size": "training.batch_size",
        "--weight_dropout": "model.weight_dropout",
        "--level": "tokenizer.level",
    }.items():
        for command in (["train"], ["tune"], ["corpus", "encode"], ["config", "show"]):
            assert main.run([*command, "x.txt", f"{option}=3"]) == 2
            assert capsys.readouterr().err == (
                f"charlm {' '.join(command)}: No such option: {option}; change the setting with "
                f"--set {setting}=VALUE (see charlm {' '.join(command)} --help)\n"
            )
    others = (["sample", "--lr", "3"], ["train", "--stepps", "3"], ["train", "--seed"])
    for words in (*others, ["corpus", "build", "agreement", "--lr", "3"]):
        assert main.run(words) == 2
        assert "--set" not in capsys.readouterr().err.replace("--set,", ""), words


def test_a_wrong_setting_is_answered_with_the_option_and_the_setting(capsys):
    assert main.run(["config", "show", "--set", "model.ngrams=1"]) == 2
    assert capsys.readouterr().err.startswith("charlm: --set: model.ngrams: must be 0, or at ")
