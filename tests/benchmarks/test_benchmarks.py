"""Settings and calculations of the benchmarks. Each is loaded from its file, as a program is."""

import argparse
import ast
import doctest
import re
import runpy
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from benchmark_modules import FOLDER, load, parse

from charlm.config.load import load_config
from charlm.errors import CharlmError, TokenizerError
from charlm.model.language_model import LanguageModel

ablation, agreement, configs, encode, gpu, measuring, runs, scaling, step, words = map(
    load,
    (
        "ablation",
        "agreement",
        "configs",
        "encode",
        "gpu",
        "measuring",
        "runs",
        "scaling",
        "step",
        "words",
    ),
)
# Options whose meaning depends on the benchmark.
SPECIAL = {"--characters", "--config", "--only", "--set"}
MODULES = {"measuring", "runs", "board_format", "board_peer"}  # The others are programs.
PROGRAMS = sorted({path.stem for path in FOLDER.glob("*.py")} - MODULES)
ROOT = FOLDER.parent
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
TINY = [
    "model.hidden_size=8",
    "model.embedding_size=8",
    "model.num_layers=1",
    "training.batch_size=2",
    "training.window=8",
    "training.device=cpu",
]


def ablation_options(task: str, *overrides: str) -> argparse.Namespace:
    """Return what the command line of the ablation would return."""
    return argparse.Namespace(
        text=Path("a.txt"),
        valid=None,
        task=task,
        config=ablation.BASES[task],
        plain=False,
        budget=["training.steps=5"],
        overrides=list(overrides),
    )


def words_options(**options) -> argparse.Namespace:
    """Return what the command line of the comparison by words would return."""
    defaults = {
        "train": Path("a.txt"),
        "valid": Path("b.txt"),
        "overrides": [],
        "minutes": 10,
        "test_share": 0.0,
    }
    return argparse.Namespace(**defaults | options)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_help_of_a_benchmark_is_its_docstring_with_a_command(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    monkeypatch.syspath_prepend(str(FOLDER))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert load(name).__doc__ in shown
    assert f"python benchmarks/{name}.py" in shown


def commands_of(text: str) -> list[list[str]]:
    """Return the commands of benchmarks in a text, in code blocks and within paragraphs."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"^    .*?(?:benchmarks/)(\w+\.py.*)$", joined, re.MULTILINE)
    found += re.findall(r"`(?:python\s+)?benchmarks/(\w+\.py[^`|]*)`", joined)
    return [shlex.split(command) for command in found]


def test_every_command_of_a_page_and_a_docstring_is_accepted(monkeypatch, capsys):
    modules = {name: load(name) for name in PROGRAMS}
    texts = {path: path.read_text("utf-8") for path in PAGES}
    texts |= {FOLDER / name: module.__doc__ for name, module in modules.items()}
    commands = [(path, command) for path, text in texts.items() for command in commands_of(text)]
    assert len(commands) > 60
    for path, (program, *given) in commands:
        module = modules[program.removesuffix(".py")]
        if given and hasattr(module, "arguments"):
            try:
                parse(module, monkeypatch, *given)
            except SystemExit:
                pytest.fail(f"{path.name}: {program} {given}: {capsys.readouterr().err}")


def test_an_option_of_several_benchmarks_has_one_meaning(monkeypatch):
    meanings = {}
    for name in PROGRAMS:
        for option, meaning in options_of(load(name), monkeypatch).items():
            meanings.setdefault(option, set()).add(meaning)
    assert {option for option, found in meanings.items() if len(found) > 1} == SPECIAL


def options_of(module, monkeypatch) -> dict[str, str]:
    """Return the help of each option of a benchmark, without its choices and default."""
    if not hasattr(module, "arguments"):
        return {}

    def stop(parser):
        actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        raise StopIteration(
            {
                action.option_strings[0]: re.split(r", of: | \[", action.help)[0]
                for action in actions
                if action.option_strings
            }
        )

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(StopIteration) as stopped:
        module.arguments()
    return stopped.value.value


def test_what_a_benchmark_uses_of_a_module_exists():
    missing = []
    for path in sorted(FOLDER.glob("*.py")):
        module = load(path.stem)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = getattr(module, node.value.id, None)
                if isinstance(used, ModuleType) and not hasattr(used, node.attr):
                    missing.append((path.name, node.value.id, node.attr))
    assert missing == []


def test_no_benchmark_hides_a_module_of_python_or_torch():
    # Python puts the folder of a program first in its path; torch imports cuda.bindings.
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert not names & {*sys.stdlib_module_names, "cuda", "tokenizers"}


def test_examples_in_docstrings_are_right():
    with_examples = [path for path in FOLDER.glob("*.py") if ">>> " in path.read_text("utf-8")]
    assert with_examples
    for path in with_examples:
        result = doctest.testmod(load(path.stem))
        assert result.attempted > 0 and result.failed == 0, path


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("cells", ["--cells", "lstn"], "--cells: must be one of bag;"),
        ("tasks", ["--only", "tags"], "--only: must be one of complete; translate; classify; tag,"),
        ("ablation", ["a.txt", "--only", "mixture of 5"], "mixture of 5 needs --task words"),
        ("board", ["a.txt", "--only", "x"], "--only: x is no contestant"),
        ("step", ["--rounds", "0"], "--rounds: must be an integer of at least 1, got '0'"),
        ("configs", ["x", "--minutes", "1,0"], "--minutes: must be a number above 0, got '0'"),
        (
            "configs",
            ["x", "--seeds", "3", "1", "1"],
            "--seeds: must be different values, got 3 1 1",
        ),
        ("ablation", ["a.txt", "--only", "x"], "--only: must be one of no dropout;"),
        ("choice", ["a.txt", "--speed", "9"], "--speed: needs --table"),
        (
            "equal_minutes",
            ["a.txt", "--out", "b.json", "--processor-time"],
            "--processor-time: needs --threads 1",
        ),
        ("scaling", ["--batch", "7"], "--batch: must be at least 8, got 7"),
        ("scaling", ["--cores", "0", "9999"], "--cores: there is no core 9999 for this program"),
        ("coverage", ["a.txt", "--slices", "0"], "must be an integer of at least 1, got '0'"),
        ("coverage", ["a.txt", "--slice", "-1"], "--slice: must be an integer of at least 1, got"),
        ("sampling", ["--seconds", "nan"], "--seconds: must be a number above 0, got 'nan'"),
        ("words", ["a", "b", "--test-share", "1"], "must be at least 0 and below 1, got '1'"),
        ("fine_tuning", ["a:b", "--replay", "x"], "must be at least 0 and below 1, got 'x'"),
    ],
)
def test_wrong_usage_is_refused_before_the_measurement(
    name, arguments, problem, monkeypatch, capsys
):
    with pytest.raises(SystemExit) as ended:
        parse(load(name), monkeypatch, *arguments)
    assert ended.value.code == 2
    assert problem in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("main", "problem", "status"),
    [
        (partial(load_config, "nowhere"), "nowhere: no such configuration file; ", 1),
        (partial(measuring.read_text, "nowhere.txt"), "nowhere.txt: No such file or directory", 1),
        (partial(measuring.run_python, "-c", "exit(3)"), "-c exit(3): ended with exit status 3", 1),
        (partial(measuring.resources_of, ["-c", "exit(3)"], {}), "-c exit(3): ended with exit", 1),
        (partial(signal.raise_signal, signal.SIGINT), "interrupted", 130),
    ],
)
def test_an_error_and_an_interruption_are_one_line(main, problem, status, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x/some.py"])
    with pytest.raises(SystemExit) as ended:
        measuring.run_main(main)
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(f"some.py: {problem}")


def test_results_of_another_plan_or_machine_and_other_files_are_not_continued(tmp_path):
    path = tmp_path / "new" / "a.json"
    results = measuring.read_results(path, {"trials": 12})
    measuring.write_results(path, results | {"runs": [1]})
    assert measuring.read_results(path, {"trials": 12})["runs"] == [1]
    with pytest.raises(CharlmError, match=r"a.json: its trials is 12, not 6; name another --out"):
        measuring.read_results(path, {"trials": 6})
    measuring.write_results(path, results | {"torch": "1.0"})
    with pytest.raises(CharlmError, match=r"a.json: its torch is '1.0', not "):
        measuring.read_results(path, {"trials": 12})
    for content in ("{", "[]", "\udcff"):
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(CharlmError, match=r"a.json: is not a file of results; name another"):
            measuring.read_results(path, {})


def test_the_resources_of_a_program_are_its_own_and_it_is_polled():
    polled = []
    usage = measuring.resources_of(
        ["-c", "import os; x = bytearray(10**8); assert os.environ['HERE'] == 'yes'"],
        {"HERE": "yes"},
        poll=polled.append,
    )
    assert usage.ru_utime > 0 and usage.ru_maxrss * 1024 > 10**8
    assert len(set(polled)) == 1


def test_both_tokenizers_encode_the_same_documents(tmp_path):
    files = encode.write_files(tmp_path / "texts", b"the cat sat on the mat\n" * 400, 9_200, 2)
    documents = [document for group in encode.read_documents(files, 10_000) for document in group]
    assert b"".join(documents) == files[0].read_bytes() + files[1].read_bytes()
    assert min(len(documents[0]), len(documents[1])) >= encode.DOCUMENT_BYTES
    options = argparse.Namespace(workers=1, rounds=2)
    lines = 2 * 396
    for level, tokens in (("char", 23 * lines + 2), ("word", 7 * lines + 2)):  # With two <EOS>.
        row = encode.measure(level, files, tmp_path, options)
        assert (row["bytes"], row["tokens"]) == (23 * lines, tokens), level
        assert row["peak_bytes"] > 10**6 and min(row["megabytes_per_second"].values()) > 0, level
        assert encode.cells_of(row)[:2] == [level, f"{tokens:,}"]


def test_a_text_without_line_ends_is_not_divided_into_files(tmp_path):
    with pytest.raises(CharlmError, match="the text has no line end"):
        encode.write_files(tmp_path / "texts", b"abc", 1_000, 1)


def test_tokenizers_that_differ_are_not_compared():
    section = load_config(None, []).tokenizer
    ours, theirs = (encode.learn_tokenizer([text], section) for text in ("abc", "bc"))
    encode.compare_ids(ours, "abc")
    both = SimpleNamespace(encode=ours.encode, library=theirs.library, section=section)
    with pytest.raises(TokenizerError, match="level char: the ids of charlm and of tokenizers"):
        encode.compare_ids(both, "abc")


def test_every_option_of_the_ablation_is_a_valid_configuration():
    for task, level in (("characters", "char"), ("words", "word")):
        for name in ablation.option_table(task):
            config = ablation.configure(name, 3, ablation_options(task))
            assert (config.training.seed, config.training.steps) == (3, 5), name
            assert config.tokenizer.level == level, name


def test_every_option_of_the_ablation_changes_at_least_one_base():
    for name in set(ablation.option_table("words")) - {"no dropout"}:
        tasks = [task for task in ablation.BASES if name in ablation.option_table(task)]
        bases = [
            ablation_options(task, f"model.tied={tied}")
            for task in tasks
            for tied in ("false", "true")
        ]
        assert any(
            ablation.configure(name, 1, base) != ablation.configure("base", 1, base)
            for base in bases
        ), name


def test_no_two_options_of_the_ablation_give_the_same_configuration():
    for task in ablation.BASES:
        options = ablation_options(task, "model.output_dropout=0.3", "model.embedding_dropout=0.3")
        names = [name for name in ablation.option_table(task) if "tied" not in name]
        configs = [ablation.configure(name, 1, options) for name in names]
        for index, config in enumerate(configs):
            assert config not in configs[:index], names[index]


def test_the_difference_to_the_base_is_taken_within_seeds_and_without_diverged_runs():
    runs = [
        {"option": name, "seed": seed, "steps": 10, "loss_nats": loss}
        for name, losses in {"base": [1.0, 2.0, 4.0], "better": [0.5, 1.9, None]}.items()
        for seed, loss in enumerate(losses)
    ]
    base, better = ablation.summarize(runs, ["base", "better"])
    assert (base["median"], base["difference"], base["diverged"]) == (2.0, 0.0, 0)
    assert (better["lowest"], better["highest"], better["diverged"]) == (0.5, 1.9, 1)
    assert better["difference"] == pytest.approx(-0.3)  # The median of -0.5 and -0.1.


def test_an_option_that_diverged_with_every_seed_has_no_number():
    runs = [
        {"option": name, "seed": 1, "steps": 3, "loss_nats": loss}
        for name, loss in (("base", 1.0), ("x", None))
    ]
    row = ablation.summarize(runs, ["base", "x"])[1]
    assert row["median"] is row["difference"] is None
    assert "diverged" in ablation.format_row(row)


def test_a_recurrence_that_fails_is_trained_again_with_a_quarter_of_the_rate(monkeypatch):
    cells, losses, rates = load("shakespeare_cells"), [None, 9.0, 2.0], []

    def measure_validation(config):
        rates.append(config.training.learning_rate)
        return {"loss_nats": losses[len(rates) - 1], "vocabulary_size": 67}

    monkeypatch.setattr(cells, "measure_validation", measure_validation)
    options = argparse.Namespace(text="a.txt", steps=5, overrides=["training.learning_rate=0.16"])
    run = cells.measure("min_gru", 8, 3, options)
    assert (run["seed"], run["learning_rate"], run["loss_nats"]) == (3, 0.01, 2.0)
    assert rates == [0.16, 0.04, 0.01]


def test_the_arithmetic_of_a_step_is_that_of_its_matrix_products():
    sizes = ["model.hidden_size=5", "model.embedding_size=3"]
    model = LanguageModel(load_config(None, sizes).model, 11)
    assert step.multiplications(model) == 4 * 5 * (3 + 5) + 5 * 11
    tied = [*sizes, "model.tied=true", "model.num_layers=2"]
    model = LanguageModel(load_config(None, tied).model, 11)
    assert step.multiplications(model) == 4 * 5 * (3 + 5) + 4 * 5 * (5 + 5) + 5 * 3 + 3 * 11


def test_timing_a_graph_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["step.py", "--device", "cpu", "--launch", "graph"])
    with pytest.raises(CharlmError, match="--launch graph: needs a CUDA GPU, got cpu; use eager"):
        step.main()


def test_the_timed_step_trains():
    config = load_config(
        None,
        [
            "model.hidden_size=8",
            "training.batch_size=2",
            "training.window=4",
            "training.steps=1000",
        ],
    )
    steps, gigaflop = step.training_steps(config, "fp32", 11, torch.device("cpu"))
    first = next(steps)
    assert first.state.step == 1 and first.state.tokens == 2 * 4
    assert next(steps).state.step == 2
    assert gigaflop == pytest.approx(6 * 2 * 4 * (4 * 8 * (64 + 8) + 8 * 11) / 1e9)


def test_measurements_take_turns_and_the_median_is_over_the_rounds():
    calls = []

    def measurement(name: str, values: list[float]):
        def measure() -> float:
            calls.append(name)
            return values.pop(0)

        return measure

    measurements = {"a": measurement("a", [1, 9, 2]), "b": measurement("b", [5, 4, 6])}
    values = measuring.measure_in_turn(measurements, 3)
    assert calls == ["a", "b"] * 3
    assert values == {"a": [1, 9, 2], "b": [5, 4, 6]}
    assert measuring.medians(values) == {"a": 2, "b": 5}


def test_time_is_counted_for_the_phase_of_the_function(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(configs, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def work(seconds: float) -> float:
        clock[0] += seconds
        return seconds

    module = SimpleNamespace(save=work, validate=work, unmeasured=work)
    phases = {"saving": ((module, "save"),), "validation": ((module, "validate"),)}
    with configs.time_phases(phases) as phase_seconds:
        returned = [module.save(1.0), module.validate(seconds=4.0)]
        returned += [module.save(2.0), module.unmeasured(8.0)]
    module.save(16.0)
    assert returned == [1.0, 4.0, 2.0, 8.0]
    assert phase_seconds == {"saving": 3.0, "validation": 4.0}


def test_the_functions_of_all_phases_exist():
    for functions in configs.PHASES.values():
        for module, name in functions:
            assert callable(getattr(module, name, None)), name


def test_configurations_are_compared_on_the_same_tokens_and_time():
    for name in ("word-language-model", "words", "ptb"):
        config = words.configure(name, 2, 7, words_options())
        corpus, training, tokenizer = config.corpus, config.training, config.tokenizer
        assert (corpus.text, corpus.valid_text) == (("a.txt",), ("b.txt",)), name
        assert (training.minutes, training.epochs, training.seed) == (7, None, 2), name
        assert (tokenizer.words, tokenizer.vocabulary_size) == ("whitespace", 1_000_000), name


def test_the_gpu_overrides_for_penn_treebank_are_valid():
    config = load_config("ptb", [*gpu.PTB_IN_MINUTES, "training.minutes=10"])
    assert (config.training.optimizer, config.training.epochs) == ("adamw", None)


def test_the_benchmarks_of_a_gpu_accept_their_commands(monkeypatch):
    options = parse(gpu, monkeypatch, "a.txt", "--ptb", "b.txt", "c.txt", "--minutes", "3")
    programs = []
    for name, *command in gpu.commands(options):
        programs.append(name)
        parse(load(name.removesuffix(".py")), monkeypatch, *command)
    assert programs == ["step.py", "configs.py", "words.py"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_the_gpu_benchmark_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "a.txt"])
    with pytest.raises(CharlmError, match="no CUDA GPU"):
        gpu.main()


def test_the_plateau_schedule_evaluates_once_per_epoch(monkeypatch):
    trained = []

    def train_and_score(config, test_share):
        trained.append(config.training)
        return {"epochs": 0.6}

    monkeypatch.setattr(words, "train_and_score", train_and_score)
    words.measure("word-language-model", 1, words_options())
    assert [section.minutes for section in trained] == [0.5, 10]
    assert trained[1].evaluations == 12
    words.measure("words", 1, words_options())
    assert trained[2].minutes == 10 and len(trained) == 3


def test_a_compared_run_is_scored_on_the_validation_text(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\nthe dog sat\n" * 60, encoding="utf-8")
    (tmp_path / "b.txt").write_text("the dog sat\n" * 4 + "the owl sat\n", encoding="utf-8")
    options = words_options(train=tmp_path / "a.txt", valid=tmp_path / "b.txt", overrides=TINY)
    config = words.configure("word-language-model", 1, 0.005, options)
    row = words.train_and_score(config)
    assert (row["minutes"], row["seed"], row["vocabulary_size"]) == (0.005, 1, 2 + 4)
    assert list(row["splits"]) == ["valid"]
    score = row["splits"]["valid"]
    assert score["unknown_share"] == 1 / 20  # "owl"; each line has four tokens, with <EOS>.
    assert 1 < score["perplexity"] < 1000 and row["epochs"] > 0 and row["steps"] > 0
    phases = row["phase_seconds"]
    assert sum(phases.values()) == pytest.approx(row["other_seconds"], abs=0.01)
    assert min(phases.values()) > -0.01 and phases["validation"] > 0 and phases["saving"] > 0


def test_several_values_are_given_with_commas_or_spaces(capsys):
    parser = argparse.ArgumentParser()
    measuring.add_options(parser, seeds=[1], minutes=[], rounds=3)
    measuring.add_series(parser, "--only", [], choices=["a, b", "c"], help="names")
    assert vars(parser.parse_args([])) == {"seeds": [1], "minutes": [], "rounds": 3, "only": []}
    assert parser.parse_args(["--seeds", "1,2,3"]).seeds == [1, 2, 3]
    assert parser.parse_args(["--seeds", "4", "5,6"]).seeds == [4, 5, 6]
    assert parser.parse_args(["--minutes", "0.5,1"]).minutes == [0.5, 1.0]
    assert parser.parse_args(["--only", "c", "a, b"]).only == ["c", "a, b"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--seeds", "1..3"])
    assert "--seeds: must be an integer of at least 1, got '1..3'" in capsys.readouterr().err


def test_a_budget_is_given_in_steps_or_minutes():
    parser = argparse.ArgumentParser()
    measuring.add_budget(parser, minutes=1.0)
    overrides = [
        measuring.budget_override(parser.parse_args(given))
        for given in ([], ["--minutes", "0.5"], ["--steps", "7"])
    ]
    assert overrides == ["training.minutes=1.0", "training.minutes=0.5", "training.steps=7"]


def test_a_text_is_a_file_or_a_corpus_and_keeps_its_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\r\nb\n")
    assert measuring.read_text(str(path)) == measuring.read_text(path) == "a\r\nb\n"
    assert measuring.read_text("number-words").count("\n") > 100
    for data, problem in ((b"caf\xe9", r"byte 3 \(0xe9\) is not UTF-8"), (b"", "is empty")):
        path.write_bytes(data)
        with pytest.raises(CharlmError, match=rf"a\.txt: {problem}"):
            measuring.read_text(path)


def test_a_held_out_test_split_was_training_text_and_validation_stays_the_same(tmp_path):
    lines = [f"line {number}" for number in range(100)]
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    for mode in ("stream", "records"):
        overrides = [measuring.text_override(path), f"corpus.mode={mode}"]
        before = parts_of(load_config(None, overrides))
        config = runs.hold_out_test(load_config(None, overrides), 0.25, tmp_path)
        parts = parts_of(config)
        assert parts["valid"] == before["valid"], mode
        assert sorted(parts["train"] + parts["test"]) == sorted(before["train"]), mode
        assert len(parts["test"]) == pytest.approx(len(before["train"]) / 4, abs=1), mode
        assert runs.hold_out_test(config, 0.25, tmp_path) is config, mode


def parts_of(config) -> dict[str, list[bytes]]:
    """Return each part of a corpus: its characters, or its records."""
    parts = runs.open_corpus(runs.resolve(config)).parts
    texts = {part: runs.text_bytes(text) for part, text in parts.items()}
    if config.corpus.mode == "records":
        return {part: text.splitlines() for part, text in texts.items()}
    return {part: [bytes([byte]) for byte in text] for part, text in texts.items()}


def test_networks_of_equal_parameters_follow_those_of_equal_size(monkeypatch):
    # With the vocabulary of the corpus, as in docs/lab/2026-11-26-context.md.
    monkeypatch.setattr(agreement, "count_vocabulary", lambda overrides: 187)
    given = ["--cells", "elman", "lstm"]
    options = parse(agreement, monkeypatch, *given, "--equal-parameters")
    networks = list(agreement.choose_networks(options))
    sizes = [(network.cell, network.hidden_size) for network in networks]
    assert sizes == [("elman", 64), ("lstm", 64), ("elman", 121)]
    assert [network.parameters for network in networks] == [32443, 57403, 57409]
    options = parse(agreement, monkeypatch, *given)
    assert list(agreement.choose_networks(options)) == networks[:2]


def test_a_table_of_networks_leaves_out_what_a_network_does_not_have(capsys):
    rows = {
        agreement.Network("elman", 64, 1000): [{"hidden": 1.5}, {"hidden": 2.5}],
        agreement.Network("lstm", 8, 900): [{"hidden": 4, "cell": 6.25}] * 2,
    }
    agreement.print_table(rows)
    *_, elman, lstm = capsys.readouterr().out.splitlines()
    assert elman == "| elman | 64 | 1,000 | 2 (1.5 to 2.5) |  |"
    assert lstm == "| lstm | 8 | 900 | 4 | 6.25 |"


def test_results_are_the_median_over_the_seeds_with_their_range():
    results = [
        {
            "config": "a",
            "minutes": minutes,
            "steps": steps,
            "splits": {
                split: {
                    "loss_nats": loss + shift,
                    "perplexity": 10 * loss,
                    "bits_per_character": 1.0,
                    "adapted": None,
                }
                for split, shift in (("valid", 0.0), ("test", 1.0))
            },
        }
        for minutes, steps, loss in (
            (None, 1_000, 2.5),
            (0.5, 100, 3.0),
            (None, 3_000, 1.5),
            (None, 2_000, 2.0),
        )
    ]
    valid, test, short, _ = configs.summarize(results)
    assert (short["minutes"], short["runs"], short["loss_nats"]["median"]) == (0.5, 1, 3.0)
    assert configs.format_table([short]).splitlines()[2].startswith("| a | 0.5 | valid | 1 | 100 |")
    assert valid["steps"] == {"median": 2_000, "lowest": 1_000, "highest": 3_000}
    assert test["loss_nats"] == {"median": 3.0, "lowest": 2.5, "highest": 3.5}
    assert configs.format_table([valid, test]).splitlines()[2] == (
        "| a |  | valid | 3 | 2,000 (1,000 to 3,000) | 2.0000 (1.5000 to 2.5000) "
        "| 20.00 (15.00 to 25.00) | 1.000 |"
    )


def test_a_configuration_is_scored_on_a_test_split_that_it_does_not_have(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("the cat sat on the mat\n" * 60, encoding="utf-8")
    options = argparse.Namespace(
        overrides=[*TINY, "training.minutes=null", "training.steps=2"],
        test_share=0.2,
        dynamic=True,
        cache=False,
    )
    run = configs.measure(f"shakespeare={path}", None, 7, options)
    assert list(configs.scores_of(run)) == ["valid", "test", "valid, adapted", "test, adapted"]
    characters = [run["splits"][split]["characters"] for split in ("valid", "test")]
    assert characters == [138, 249]  # A tenth of 1,380, and a fifth of the rest.
    assert run["splits"]["test"]["settings"]["training_seed"] == 7
    assert "shakespeare, seed 7: 2 steps" in configs.format_run(run)


def test_ratios_compare_runs_with_the_same_seed():
    results = [
        {"config": name, "seed": seed, "splits": {"valid": {"perplexity": perplexity}}}
        for name, perplexities in {"first": [100.0, 200.0], "second": [80.0, 100.0]}.items()
        for seed, perplexity in enumerate(perplexities)
    ]
    assert words.ratios_of(results)["second"] == {
        "median": pytest.approx(0.65),
        "lowest": 0.5,
        "highest": 0.8,
    }


def test_a_ring_of_two_sends_all_bytes_once_in_two_hops():
    link = scaling.Link(bytes_per_second=1e6, hop_seconds=0.5)
    assert scaling.all_reduce_seconds(4e6, 2, link) == pytest.approx(4 + 2 * 0.5)
    assert scaling.all_reduce_seconds(4e6, 4, link) == pytest.approx(2 * 3 / 4 * 4 + 6 * 0.5)
    assert scaling.all_reduce_seconds(4e6, 1, link) == 0


def test_efficiency_is_the_fraction_of_computation_and_falls_with_the_workers():
    link = scaling.Link(bytes_per_second=1e6, hop_seconds=0)
    assert scaling.efficiency(4, 4e6, 2, link) == pytest.approx(0.5)
    for name, link in scaling.LINKS.items():
        values = [scaling.efficiency(0.1, 2e8, workers, link) for workers in (1, *scaling.WORKERS)]
        assert values[0] == 1 and values == sorted(values, reverse=True), name
    slow, fast, fastest = (scaling.efficiency(0.1, 2e8, 8, link) for link in scaling.LINKS.values())
    assert slow < fast < fastest


def test_a_line_fits_small_and_large_amounts_alike():
    amounts = [2.0**power for power in range(10, 26)]
    exact = [3e-4 + 2e-9 * amount for amount in amounts]
    assert scaling.fit_line(amounts, exact) == pytest.approx((3e-4, 2e-9))
    noisy = [value * (1.1 if index % 2 else 0.9) for index, value in enumerate(exact)]
    assert scaling.fit_line(amounts, noisy) == pytest.approx((3e-4, 2e-9), rel=0.1)


def test_each_process_of_a_group_trains_on_its_columns():
    options = argparse.Namespace(hidden=8, window=4, precision="fp32")
    steps = scaling.worker_steps(options, 5, scaling.Group(1, 2), torch.device("cpu"))
    assert next(steps).state.tokens == 2 * 4  # The second of two processes has two of five columns.


def test_a_process_of_a_group_that_has_ended_is_one_line():
    with scaling.ExitStack() as stack:
        ended = subprocess.Popen(
            [sys.executable, "-c", "input()"], text=True, stdin=subprocess.PIPE, stdout=-1
        )
        stack.callback(scaling.stop_worker, ended)
        with pytest.raises(CharlmError, match="a process of the group of 2 has ended"):
            scaling.do_task([ended], scaling.Task(2, "step", 8))


def test_the_time_for_reading_files_is_compared_with_that_of_the_fewest_files():
    reading = load("reading")
    row = reading.measure(3)
    assert set(row) == {
        f"{name}_{kind}" for name in ("first", "again") for kind in ("seconds", "processor")
    }
    smallest = {"files": 2, "first_seconds": 1.0, "first_processor": 1.0}
    smallest |= {"again_seconds": 2.0, "again_processor": 2.0}
    line = reading.format_row(smallest, {name: 4 * value for name, value in smallest.items()})
    assert line == (
        "8 files (4.0 times): first 4.00 s, of the processor 4.00 s (4.0 times); again 8.00 s, of "
        "the processor 8.00 s (4.0 times)"
    )
