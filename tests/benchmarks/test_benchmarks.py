"""What the benchmarks set and count. They are programs, not a package: each is loaded from its file."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from charlm.config.load import load_config
from charlm.model.language_model import LanguageModel

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    """Return a benchmark's module; loaded as a program is, with its folder first in the path, which it takes away."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    path = sys.path[:]
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


ablation, cuda, scaling, shakespeare, step, words = map(
    load, ("ablation", "cuda", "scaling", "shakespeare", "step", "words")
)
TASK_OPTIONS = [(task, name) for task in ablation.BASES for name in ablation.options(task)]


def asked(task: str, *overrides: str) -> argparse.Namespace:
    """Return what the command line would give."""
    return argparse.Namespace(
        text=Path("a.txt"),
        valid=None,
        task=task,
        config=ablation.BASES[task],
        plain=False,
        budget=["training.steps=5"],
        overrides=list(overrides),
    )


@pytest.mark.parametrize(("task", "name"), TASK_OPTIONS)
def test_every_option_of_the_ablation_is_a_valid_configuration(task, name):
    config = ablation.configure(name, 3, asked(task))
    assert (config.training.seed, config.training.steps) == (3, 5)
    assert config.tokenizer.level == ("char" if task == "characters" else "word")


@pytest.mark.parametrize(
    "name", [name for name in ablation.options("words") if name != "no dropout"]
)
def test_every_option_of_the_ablation_changes_something_in_one_of_the_bases(name):
    tasks = [task for task in ablation.BASES if name in ablation.options(task)]
    given = [asked(task, "model.tied=false") for task in tasks] + [
        asked(task, "model.tied=true") for task in tasks
    ]
    assert any(
        ablation.configure(name, 1, each) != ablation.configure("base", 1, each) for each in given
    )


def test_no_option_of_the_ablation_says_what_another_says():
    for task in ablation.BASES:
        given = asked(task, "model.output_dropout=0.3", "model.embedding_dropout=0.3")
        configs = [
            ablation.configure(name, 1, given)
            for name in ablation.options(task)
            if "tied" not in name
        ]
        assert all(config not in configs[:number] for number, config in enumerate(configs))


def test_the_difference_to_the_base_is_within_seeds_and_leaves_out_what_diverged():
    runs = [
        {"option": name, "seed": seed, "steps": 10, "loss_nats": loss}
        for name, losses in {"base": [1.0, 2.0, 4.0], "better": [0.5, 1.9, None]}.items()
        for seed, loss in enumerate(losses)
    ]
    base, better = ablation.summarize(runs, ["base", "better"])
    assert (base["median"], base["difference"], base["diverged"]) == (2.0, 0.0, 0)
    assert (better["lowest"], better["highest"], better["diverged"]) == (0.5, 1.9, 1)
    assert better["difference"] == pytest.approx(-0.3)  # Of -0.5 and -0.1.


def test_an_option_that_diverged_with_every_seed_has_no_number():
    runs = [
        {"option": name, "seed": 1, "steps": 3, "loss_nats": loss}
        for name, loss in (("base", 1.0), ("x", None))
    ]
    row = ablation.summarize(runs, ["base", "x"])[1]
    assert row["median"] is row["difference"] is None
    assert "diverged" in ablation.table_line(row)


def test_the_arithmetic_of_a_step_is_that_of_its_products():
    model = LanguageModel(
        load_config(None, ["model.hidden_size=5", "model.embedding_size=3"]).model, 11
    )
    assert step.multiplications(model) == 4 * 5 * (3 + 5) + 5 * 11
    tied = [
        "model.hidden_size=5",
        "model.embedding_size=3",
        "model.tied=true",
        "model.num_layers=2",
    ]
    model = LanguageModel(load_config(None, tied).model, 11)
    assert step.multiplications(model) == 4 * 5 * (3 + 5) + 4 * 5 * (5 + 5) + 5 * 3 + 3 * 11


def test_a_graph_is_not_timed_where_there_is_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["step.py", "--device", "cpu", "--launches", "graph"])
    with pytest.raises(SystemExit, match="--launches graph: needs a CUDA GPU"):
        step.main()


def test_the_step_that_is_timed_trains():
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


def test_time_is_counted_for_the_phase_whose_function_took_it(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(shakespeare, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def take(seconds: float) -> float:
        clock[0] += seconds
        return seconds

    module = SimpleNamespace(save=take, validate=take, unmeasured=take)
    with shakespeare.timed(
        {"saving": ((module, "save"),), "validation": ((module, "validate"),)}
    ) as spent:
        assert (
            module.save(1.0)
            + module.validate(seconds=4.0)
            + module.save(2.0)
            + module.unmeasured(8.0)
            == 15
        )
    module.save(16.0)
    assert spent == {"saving": 3.0, "validation": 4.0}


def test_the_functions_whose_time_is_taken_are_there():
    for module, name in [
        function for functions in shakespeare.PHASES.values() for function in functions
    ]:
        assert callable(getattr(module, name))


def test_time_to_a_loss_is_the_shortest_budget_that_reaches_it():
    rows = [
        {"seconds": seconds, "loss_nats": loss}
        for seconds, losses in {3: [2.0, 1.8, 1.7], 6: [1.5, 1.6, 1.9], 12: [1.4, 1.3, 1.2]}.items()
        for loss in losses
    ]
    summary = [shakespeare.between_seeds(rows, seconds) for seconds in (3, 6, 12)]
    assert [line["median"] for line in summary] == [1.8, 1.6, 1.3]
    assert [shakespeare.shortest(summary, loss) for loss in (1.8, 1.6, 1.59, 1.2)] == [
        3,
        6,
        12,
        None,
    ]


def test_budgets_double_up_to_the_longest():
    assert shakespeare.doubling(24) == [3, 6, 12, 24]
    assert shakespeare.doubling(23.9) == [3, 6, 12]


@pytest.mark.parametrize("name", ["word-language-model", "words", "ptb"])
def test_configurations_are_compared_on_the_same_tokens_and_time(name):
    given = argparse.Namespace(train=Path("a.txt"), valid=Path("b.txt"), overrides=[])
    config = words.configure(name, 2, 7, given)
    assert (config.corpus.text, config.corpus.valid_text) == (("a.txt",), ("b.txt",))
    assert (config.training.minutes, config.training.epochs, config.training.seed) == (7, None, 2)
    assert (config.tokenizer.words, config.tokenizer.vocabulary_size) == ("whitespace", 1_000_000)


def test_what_ten_minutes_of_a_gpu_are_given_fits_the_configuration():
    config = load_config("ptb", [*cuda.PTB_IN_MINUTES, "training.minutes=10"])
    assert (config.training.optimizer, config.training.epochs) == ("adamw", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_the_gpu_s_benchmark_says_that_there_is_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cuda.py", "a.txt"])
    with pytest.raises(SystemExit, match="no CUDA GPU"):
        cuda.main()


def test_a_plateau_s_evaluations_are_as_many_as_the_epochs_that_fit(monkeypatch):
    trained = []

    def train(config):
        trained.append(config.training)
        return {
            "epochs": 0.6,
            "parameters": 1,
            "steps": 1,
            "tokens_per_second": 1,
            "perplexity": 2.0,
        }

    monkeypatch.setattr(words, "train", train)
    given = argparse.Namespace(train=Path("a.txt"), valid=Path("b.txt"), overrides=[], minutes=10)
    words.measure("word-language-model", 1, given)
    assert [section.minutes for section in trained] == [0.5, 10]
    assert trained[1].evaluations == 12
    words.measure("words", 1, given)
    assert trained[2].minutes == 10 and len(trained) == 3


def test_a_compared_run_is_scored_on_the_validation_text(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat\nthe dog sat\n" * 60, encoding="utf-8")
    (tmp_path / "b.txt").write_text("the dog sat\n" * 4 + "the owl sat\n", encoding="utf-8")
    small = [
        "training.batch_size=2",
        "training.window=8",
        "model.hidden_size=8",
        "model.embedding_size=8",
        "model.num_layers=1",
        "training.device=cpu",
    ]
    given = argparse.Namespace(train=tmp_path / "a.txt", valid=tmp_path / "b.txt", overrides=small)
    row = words.train(words.configure("word-language-model", 1, 0.005, given))
    assert row["vocabulary_size"] == 2 + 4
    assert row["unknown_share"] == 1 / 20  # One owl; four tokens a line, <EOS> among them.
    assert 1 < row["perplexity"] < 1000 and row["epochs"] > 0 and row["steps"] > 0


def test_a_ring_of_two_sends_all_bytes_once_in_two_hops():
    link = scaling.Link(bytes_per_second=1e6, hop_seconds=0.5)
    assert scaling.all_reduce_seconds(4e6, 2, link) == pytest.approx(4 + 2 * 0.5)
    assert scaling.all_reduce_seconds(4e6, 4, link) == pytest.approx(2 * 3 / 4 * 4 + 6 * 0.5)
    assert scaling.all_reduce_seconds(4e6, 1, link) == 0


def test_efficiency_falls_with_workers_and_is_the_share_of_computing():
    link = scaling.Link(bytes_per_second=1e6, hop_seconds=0)
    assert scaling.efficiency(4, 4e6, 2, link) == pytest.approx(0.5)
    for each in scaling.LINKS.values():
        shares = [scaling.efficiency(0.1, 2e8, workers, each) for workers in (1, *scaling.WORKERS)]
        assert shares[0] == 1 and shares == sorted(shares, reverse=True)
    slow, fast, fastest = (scaling.efficiency(0.1, 2e8, 8, each) for each in scaling.LINKS.values())
    assert slow < fast < fastest


def test_a_line_is_fitted_to_small_and_large_alike():
    amounts = [2.0**power for power in range(10, 26)]
    assert scaling.fit(amounts, [3e-4 + 2e-9 * amount for amount in amounts]) == pytest.approx(
        (3e-4, 2e-9)
    )
    shaken = [
        (3e-4 + 2e-9 * amount) * (1.1 if number % 2 else 0.9)
        for number, amount in enumerate(amounts)
    ]
    assert scaling.fit(amounts, shaken) == pytest.approx((3e-4, 2e-9), rel=0.1)


def test_the_steps_that_processes_share_train_on_their_columns():
    given = argparse.Namespace(hidden=8, window=4, precision="fp32")
    steps = scaling.training_steps(given, 5, scaling.Group(1, 2), torch.device("cpu"))
    assert next(steps).state.tokens == 2 * 4  # The second of two has two of five columns.
