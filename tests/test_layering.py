"""An import goes only to an earlier room, and within a room only upwards."""

import ast
from pathlib import Path

import charlm

PACKAGE = Path(charlm.__file__).parent
# The order of the data's way. A name ending in a dot is a room; model and data do not know each other, but for the
# ids that both speak of.
ORDER = [
    "errors", "untrusted", "config", "files", "tensors",
    "data.builders", "data.fetching", "data.cards", "data.tables", "data.sources", "data.corpora", "data.statistics",
    "data.tokenizer", "data.vectors", "data.shards", "data.tokens", "data.windows", "data.suffixes", "model.products",
    "model.cells.base", "model.cells.simple", "model.cells.gru", "model.cells.lstm", "model.cells.nested",
    "model.cells.mogrifier", "model.cells.minimal", "model.cells.make", "model.backpropagation", "model.scan",
    "model.dropout", "model.recurrence", "model.embedding", "model.projection", "model.language_model",
    "training.hardware", "training.group", "training.loss", "training.optimizer", "training.averaging",
    "training.captured", "training.loop", "training.checkpoint", "training.run", "training.choice",
    "sampling.filters", "sampling.place", "sampling.stepper",
    "sampling.generate", "sampling.bans", "sampling.search", "sampling.texts", "sampling.fill",
    "sampling.novelty", "sampling.copies", "sampling.matching", "evaluation.literals", "evaluation.compression",
    "evaluation.temperature",
    "evaluation.mixing", "evaluation.ngram", "evaluation.dynamic", "evaluation.cache", "evaluation.adaptation",
    "evaluation.perplexity", "evaluation.sentences", "evaluation.agreement", "evaluation.baselines",
    "evaluation.gradients", "evaluation.novelty", "evaluation.tokens", "evaluation.comparison",
    "trained.base", "trained.writing", "trained.scoring", "tracking", "api",
    "tuning.space", "tuning.storage", "tuning.workers", "tuning.results", "tuning.search",
    "cli.terminal", "cli.options", "cli.interactive", "cli.sample", "cli.progress", "cli.train", "cli.tune",
    "cli.novelty", "cli.evaluate", "cli.scores", "cli.inspect", "cli.corpus",
    "cli.config", "cli.compress", "cli.main", "__main__",
]  # fmt: skip
NO_PATHS_NO_YAML = ["model.", "training.loss", "training.loop", "sampling."]


def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
    }  # fmt: skip


def imports_of(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def test_every_module_has_its_place_in_the_order():
    assert sorted(modules()) == sorted(ORDER)


def test_imports_go_to_earlier_rooms_alone():
    for name, tree in modules().items():
        for imported in imports_of(tree):
            inner = imported.removeprefix("charlm.")
            if imported.startswith("charlm.") and inner in ORDER:
                assert ORDER.index(inner) < ORDER.index(name), f"{name} imports {inner}"


def test_data_and_model_do_not_know_each_other():
    for name, tree in modules().items():
        rooms = {imported.split(".")[1] for imported in imports_of(tree) if imported.startswith("charlm.")}
        assert not (name.startswith("model.") and "data" in rooms)
        assert not (name.startswith("data.") and "model" in rooms)


def test_model_loop_and_sampling_know_neither_paths_nor_yaml_nor_the_terminal():
    for name, tree in modules().items():
        if any(name.startswith(prefix) for prefix in NO_PATHS_NO_YAML):
            assert not {"pathlib", "os", "yaml", "sys", "tqdm", "typer"} & set(imports_of(tree)), name
