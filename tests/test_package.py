"""What importing costs and what it offers."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from conftest import SMALL

import charlm
from charlm.config.training import Training
from charlm.version import DISTRIBUTION, install_hint

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_importing_charlm_loads_its_version_only_so_that_ctrl_c_finds_the_handler_of_main():
    loaded = "import sys; before = set(sys.modules); import charlm; print(*sorted({*sys.modules} - before))"
    assert python(loaded).split() == ["charlm", "charlm.version"]


def test_completion_in_a_shell_shows_every_public_name_before_one_is_used():
    assert python("import charlm; print(set(charlm.__all__) - set(dir(charlm)))") == "set()\n"


# What only some commands need: `import charlm`, options and help do not wait for it.
NOT_FOR_HELP = ["torch", "numpy", "tqdm", "optuna", "constriction", "starlette", "onnx"]
NOT_FOR_HELP += ["transformers", "matplotlib", "tokenizers", "pyarrow"]
HELP_OF_EVERY_COMMAND = """
import sys, charlm, charlm.sampling.options

def loaded():
    return sorted(set(sys.argv[1:]) & set(sys.modules))

def show_help(command, *path):
    assert main.run([*path, "--help"]) == 0
    for name, inner in getattr(command, "commands", {}).items():
        show_help(inner, *path, name)

after_import = loaded()
from charlm.cli import main
show_help(main.typer.main.get_command(main.app))
print(after_import, loaded(), file=sys.stderr)
"""


def test_importing_charlm_and_the_help_of_every_command_load_nothing_heavy():
    command = [sys.executable, "-c", HELP_OF_EVERY_COMMAND, *NOT_FOR_HELP]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stderr == "[] []\n"
    for option in ("--search", "--max-copy", "--port"):  # Of three commands.
        assert option in done.stdout, option


# Commands that compute nothing, or that fail before they do: they do not wait for torch.
NOT_FOR_TORCH = [
    "runs RUN",
    "runs no",
    "train no",
    "train --config no",
    "train no --config quickstart",
    "train TEXT --config quickstart --set corpus.valid_text=no",
    "train TEXT --set model.hidden_size=0",
    "train TEXT --steps 1 --minutes 1",
    "train TEXT --seeds 1",
    "train TEXT --out RUN",
    "train TEXT --from no",
    "train --resume no",
    "tune no --trials 1",
    "tune no --config quickstart --trials 1 --search training.learning_rate=1e-3..1e-2",
    "tune TEXT --set model.hidden_size=0",
    "tune TEXT --trials 1 --search model.x=1,2",
    "tune --resume no",
    "sample no",
    "sample RUN --top-k 0",
    "sample RUN --prompt-file no",
    "sample no --source x",
    "eval agreement no",
    "eval cells no",
    "eval compare no other",
    "eval compare RUN",
    "eval context no",
    "eval gradients no",
    "eval memory no",
    "eval novelty no",
    "eval parity no",
    "eval perplexity no",
    "eval perplexity RUN --temperature x",
    "eval perplexity RUN TEXT --split valid",
    "eval sentences no TEXT",
    "eval task no",
    "eval tokens no",
    "compress no TEXT",
    "decompress no TEXT",
    "inspect no",
    "predict no",
    "view no",
    "view RUN --text-file no",
    "view RUN --only no",
    "serve no",
    "serve RUN RUN",
    "serve RUN --api-key-file no",
    "export no --to html --out x.html",
    "export RUN --to html",
    "card no",
    "card RUN --out TEXT",
]
RUN_COMMANDS = """
import sys, charlm.cli.main as main
for command in sys.stdin.read().splitlines():
    status = main.run(command.split())
    print(command, status, "torch" in sys.modules, file=sys.stderr)
"""


def test_commands_that_need_no_model_do_not_import_torch(trained, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("text\n", encoding="utf-8")
    commands = [
        command.replace("RUN", str(trained)).replace("TEXT", str(text)) for command in NOT_FOR_TORCH
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS],
        input="\n".join(commands),
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    for command in commands:
        status = 0 if command.startswith("runs /") else "[12]"
        assert re.search(f"^{re.escape(command)} {status} False$", done.stderr, re.M), command
    assert str(trained) in done.stdout


HEAVY = ["torch._dynamo", "torch._inductor", "sympy", "optuna", "rich", "pandas", "matplotlib"]


def test_loading_sampling_and_training_import_no_compiler_and_nothing_heavy(
    trained, trained_records, text_file, tmp_path
):
    code = "import charlm, sys\n"
    for folder in (trained, trained_records):
        code += f"charlm.load({str(folder)!r}).sample(length=5)\n"
    for optimizer in get_args(Training.model_fields["optimizer"].annotation):
        run = str(tmp_path / optimizer)
        overrides = [*SMALL, f"training.optimizer={optimizer}", f"corpus.text={text_file}"]
        code += f"config = charlm.load_config(None, {overrides})\n"
        code += f"charlm.train(config, out={run!r}, steps=1, progress=False)\n"
    code += f"charlm.resume({run!r}, steps=2, progress=False)\n"
    code += f"print({set(HEAVY)} & set(sys.modules))"
    assert python(code) == "set()\n"


def test_every_public_name_is_there():
    for name in charlm.__all__:
        assert getattr(charlm, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = charlm.trian


def hints() -> list[tuple[str, str]]:
    """Return every name that a file of the project may give to an installer, with its file."""
    folders = ("charlm", "docs", "configs", "corpora", "benchmarks", "fuzz")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix in (".py", ".md", ".yaml", ".toml")]
    found = []
    for path in [*files, *ROOT.glob("*.md"), ROOT / "pyproject.toml", ROOT / "constraints.txt"]:
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"\b(charlm[\w.-]*)\[[a-z-]+\]", text)
        for command in re.findall(
            r"\b(?:pipx?|uv|conda)3? (?:\w+ )*?(?:install|add|download)\b(.*)", text
        ):
            names += re.findall(r"(?<![\w./-])(charlm[\w.-]*)(?![\w/])", command)
        found += [(path.name, name) for name in names]
    return found


def test_every_hint_installs_the_distribution_of_this_project():
    assert PROJECT["name"] == DISTRIBUTION != "charlm"
    assert PROJECT["scripts"] == {"charlm": "charlm.__main__:main"}
    found = hints()
    assert len(found) > 5
    assert {(file, name) for file, name in found if name != DISTRIBUTION} == set()


def test_every_hint_in_the_code_names_an_extra_that_exists():
    assert install_hint("eval") == f"pip install '{DISTRIBUTION}[eval]'"
    named = set()
    for path in (ROOT / "charlm").rglob("*.py"):
        named |= set(
            re.findall(r"install_hint\([\"']([\w-]+)[\"']\)", path.read_text(encoding="utf-8"))
        )
    assert named and named <= PROJECT["optional-dependencies"].keys()


def test_an_environment_of_the_old_name_is_cleaned_before_the_installation():
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "pip uninstall --quiet --quiet --yes charlm\n" in recipe
    assert recipe.index("pip uninstall") < recipe.index("--editable '.[dev]'")
