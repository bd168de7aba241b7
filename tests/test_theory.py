"""The pages of equations are held to the code: their counts of parameters and multiplications, and the names that it points to."""

import ast
import itertools
import json
import math
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

import pytest
import torch
import yaml
from conftest import SMALL, TEXT
from torch.utils.flop_counter import FlopCounterMode

from charlm.cli.main import run as charlm
from charlm.config.cell import CELL_KINDS, CELL_OPTIONS
from charlm.config.cell import Cell as CellSection
from charlm.config.load import check_config, load_config
from charlm.config.model import Model
from charlm.errors import ConfigError
from charlm.model.cells.base import Cell, FusedCell, LinearCell
from charlm.model.cells.registry import make_cell
from charlm.model.language_model import LanguageModel, count_parameters
from charlm.model.recurrence import run_stepwise

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("recurrences.md", "equations.md", "lessons.md")
PAGE = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in PAGES)
VOCABULARY = 11
# Sizes of a layer; D, r and k are what the page calls depth, rounds and rank.
SIZES = [
    {"m": 3, "d": 5, "D": 2, "r": 1, "k": 2},
    {"m": 5, "d": 3, "D": 3, "r": 2, "k": 1},
    {"m": 4, "d": 4, "D": 5, "r": 5, "k": 7},
]

# Reading the page.

OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def value(formula: str, sizes: dict[str, int]) -> int:
    """Compute a formula of integers, names, + - * // and parentheses, and of nothing else."""
    return value_of(ast.parse(formula, mode="eval").body, sizes)


def value_of(node: ast.expr, sizes: dict[str, int]) -> int:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATIONS:
            return OPERATIONS[type(operation)](value_of(left, sizes), value_of(right, sizes))
    raise ValueError(f"not arithmetic: {ast.unparse(node)}")


def tables(page: str) -> Iterator[list[dict[str, str]]]:
    """Yield every table, a dictionary a row, by the words of its head; what stands in backticks is without them."""
    for block in re.findall(r"(?:^\|.*\|\n)+", page, flags=re.MULTILINE):
        head, _, *rows = [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            for line in block.splitlines()
        ]
        yield [dict(zip(head, [bare(cell) for cell in row], strict=True)) for row in rows]


def bare(cell: str) -> str:
    """Return a cell that is one piece of code without its backticks, any other as it is."""
    return cell[1:-1] if re.fullmatch("`[^`]*`", cell) else cell


def rows_with(*columns: str) -> list[dict[str, str]]:
    return [row for table in tables(PAGE) for row in table if set(columns) <= set(row)]


def section(row: dict[str, str], sizes: dict[str, int]) -> CellSection:
    """Return the cell that a row's YAML names, its letters replaced by sizes."""
    named = yaml.safe_load(row["YAML"])["cell"]
    options = named if isinstance(named, dict) else {"kind": named}
    options = {
        name: sizes[given] if given in ("D", "r", "k") else given for name, given in options.items()
    }
    return check_config({"model": {"cell": options}}, row["YAML"]).model.cell


RECURRENCES = rows_with("YAML", "parameters")
PARTS = {row["part of a layer"]: row for row in rows_with("part of a layer", "parameters")}
AROUND = {row["what"]: row["parameters"] for row in rows_with("what", "equation", "parameters")}


# Counting in the code.


def make(cell: CellSection, sizes: dict[str, int]) -> Cell:
    return make_cell(cell, sizes["m"], sizes["d"])


def parameters(module: torch.nn.Module) -> int:
    return sum(size for _, _, size in count_parameters(module))


def multiplications(cell: Cell, input_size: int) -> int:
    """Count those of matrix products in one step."""
    state = (torch.zeros(1, cell.hidden_size),) * cell.num_state_tensors
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run_stepwise(cell, torch.zeros(1, 1, input_size), state)
    return counter.get_total_flops() // 2  # An addition comes with each.


def way(cell: Cell) -> str:
    return (
        "fused"
        if isinstance(cell, FusedCell)
        else "scan"
        if isinstance(cell, LinearCell)
        else "steps"
    )


# The recurrences.


def test_every_kind_of_the_configuration_has_a_row():
    assert {section(row, SIZES[0]).kind for row in RECURRENCES} == set(CELL_KINDS)


@pytest.mark.parametrize(
    ("kind", "option"), [(kind, name) for kind, names in CELL_OPTIONS.items() for name in names]
)
def test_every_choice_of_an_option_has_a_row(kind, option):
    cells = [section(row, sizes) for row in RECURRENCES for sizes in SIZES]
    given = {getattr(cell, option) for cell in cells if cell.kind == kind}
    if choices(option):
        named = {
            name for names in given for name in (names if isinstance(names, tuple) else (names,))
        }
        assert named >= set(choices(option))
    else:
        assert len(given) > 1, "a size is told as a letter"
    assert None in given or NoneType not in get_args(CellSection.model_fields[option].annotation)


def choices(field: str) -> tuple[object, ...]:
    """Return the names that a field of the cell section takes, one or several at a time; none for a size."""
    annotation = CellSection.model_fields[field].annotation
    if annotation is bool:
        return (False, True)
    names = get_args(annotation)[0] if get_origin(annotation) is tuple else annotation
    return get_args(names) if get_origin(names) is Literal else ()


@pytest.mark.parametrize("row", RECURRENCES, ids=lambda row: row["YAML"])
def test_a_recurrence_has_the_counts_and_runs_in_the_way_that_its_row_says(row):
    for sizes in SIZES:
        cell = make(section(row, sizes), sizes)
        counted = {
            "parameters": parameters(cell),
            "multiplications": multiplications(cell, sizes["m"]),
            "state": cell.num_state_tensors,
        }
        assert {column: value(row[column], sizes) for column in counted} == counted, sizes
        assert row["runs as"] == way(cell), sizes


def lstm_variants() -> Iterator[CellSection]:
    """Yield every LSTM that the configuration takes, but for those that run on torch's kernel."""
    flags = ("coupled", "capped", "full_gate_recurrence")
    for peepholes, without, coupled, capped, full_gate_recurrence, weights in itertools.product(
        subsets(choices("peepholes")),
        subsets(choices("without")),
        *map(choices, flags),
        choices("peephole_weights"),
    ):
        options = {
            "kind": "lstm",
            "peepholes": peepholes,
            "without": without,
            "coupled": coupled,
            "capped": capped,
            "full_gate_recurrence": full_gate_recurrence,
            "peephole_weights": weights,
        }
        try:
            cell = check_config({"model": {"cell": options}}, "variant").model.cell
        except ConfigError:
            continue
        if peepholes or without or coupled or capped or full_gate_recurrence:
            yield cell


def subsets(names: tuple[object, ...]) -> list[tuple[object, ...]]:
    return [
        some for count in range(len(names) + 1) for some in itertools.combinations(names, count)
    ]


def test_every_mixture_of_lstm_options_has_the_sum_of_its_parts():
    sizes, variants = {"m": 3, "d": 2}, list(lstm_variants())
    assert len(variants) > 300
    for variant in variants:
        gates = 3 - sum(name.endswith("_gate") for name in variant.without) - variant.coupled
        letters = sizes | {"n": gates, "p": len(variant.peepholes)}
        peepholes = {
            "diagonal": "`peepholes`, one weight per unit",
            "full": "`peepholes` with `peephole_weights: full`",
        }
        names = ["gates and candidate", peepholes[variant.peephole_weights]]
        names += ["full_gate_recurrence"] * variant.full_gate_recurrence
        cell = make(variant, sizes)
        counted = {
            "parameters": parameters(cell),
            "multiplications": multiplications(cell, sizes["m"]),
            "state": cell.num_state_tensors,
        }
        assert {
            column: sum(value(PARTS[name][column], letters) for name in names) for column in counted
        } == counted


# The whole model.


def formulas_of(cell: CellSection) -> tuple[dict[str, str], dict[str, int]]:
    """Return the row of a recurrence, and what its letters stand for."""
    letters = {"D": cell.depth, "r": cell.rounds, "k": cell.rank or 1}
    return next(row for row in RECURRENCES if section(row, letters) == cell), letters


def counted_by_the_page(model: Model, vocabulary_size: int) -> int:
    """Add up the page's formulas for a whole model."""
    row, letters = formulas_of(model.cell)
    letters |= {
        "V": vocabulary_size,
        "e": vocabulary_size if model.embedding == "one_hot" else model.embedding_size,
    }
    total, size = 0, letters["e"]
    for hidden_size in model.hidden_sizes:
        letters["x"] = model.mlp_expansion
        letters |= {"m": size, "d": size if model.cell.kind == "bag" else hidden_size}
        letters["s"] = value(row["state"], letters)
        total += value(row["parameters"], letters)
        total += value(AROUND["`layer_norm`, each layer"], letters) * model.layer_norm
        learned = model.initial_state == "learned"
        total += value(AROUND["`initial_state: learned`, each layer"], letters) * learned
        if model.block == "griffin":
            total += value(AROUND["`block: griffin`, each layer"], letters)
        else:
            size = letters["d"]
    total += value(AROUND["`block: griffin`, the last norm"], letters) * (model.block == "griffin")
    total *= 2 if model.direction == "both" else 1
    total += value(AROUND[f"embedding: {model.embedding}"], letters) + value(
        AROUND[f"skip: {model.skip}"], letters
    )
    if model.block == "griffin":  # The projection reads the stream.
        letters["d"] = letters["e"]
    total += value(AROUND["projection, `tied: true`" if model.tied else "projection"], letters)
    adapted = model.tied and letters["e"] != size
    return total + value(AROUND["output adapter, if `tied: true` and e ≠ d"], letters) * adapted


CELLS = [
    *choices("kind"),
    {"kind": "nested_lstm", "depth": 3},
    {"kind": "mogrifier_lstm", "rounds": 2, "rank": None},
    {"kind": "lstm", "full_gate_recurrence": True, "peepholes": ["input", "forget", "output"]},
]


@pytest.mark.parametrize("cell", CELLS, ids=str)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_layers": 3, "hidden_size": 5},
        {"hidden_size": [7, 5, 6]},
        {"embedding": "one_hot", "num_layers": 2},
        {"embedding": "pretrained", "vectors": "none.txt", "freeze_embedding": True},
        {"layer_norm": True, "initial_state": "learned", "hidden_size": [7, 5]},
        {"skip": "residual", "num_layers": 2},
        {"skip": "sum", "num_layers": 2, "layer_norm": True},
        {"direction": "backward", "num_layers": 2},
        {"direction": "both", "num_layers": 2, "layer_norm": True, "initial_state": "learned"},
        {"block": "griffin", "num_layers": 2, "mlp_expansion": 2},
        {"block": "griffin", "embedding": "one_hot", "initial_state": "learned"},
        {"block": "griffin", "tied": True, "direction": "both"},
        {"tied": True, "embedding_size": 6},
        {"tied": True, "direction": "both"},
        {"tied": True, "hidden_size": [6, 4], "layer_norm": True},
    ],
    ids=str,
)
def test_a_whole_model_has_the_parameters_that_the_formulas_add_up_to(cell, fields):
    model = Model.model_validate({"hidden_size": 6, "embedding_size": 4, **fields, "cell": cell})
    assert counted_by_the_page(model, VOCABULARY) == parameters(LanguageModel(model, VOCABULARY))


def test_inspect_tells_as_many_parameters_as_the_formulas_add_up_to(capfd, trained):
    assert charlm(["inspect", str(trained), "--json"]) == 0
    inspected = json.loads(capfd.readouterr().out)
    model = load_config(None, SMALL).model
    assert inspected["parameters"] == counted_by_the_page(
        model, len(set(TEXT)) + 2
    )  # <EOS> and <UNK>.


# The rest of the page.


def test_the_half_life_of_a_new_forget_gate_is_what_the_page_says():
    forget = 1 / (1 + math.exp(-1))
    page = " ".join(PAGE.split())
    assert (
        f"σ(1) = {forget:.2f}" in page
        and f"halves in {math.log(2) / -math.log(forget):.1f} tokens" in page
    )


def test_every_link_and_every_name_beside_it_is_there():
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (DOCS / target).is_file(), target
    found = re.findall(r"\]\((\S+\.py)\)((?:,?\s`[\w.]+`)+)", PAGE)
    assert len(found) > 30
    for target, names in found:
        for name in re.findall(r"`([\w.]+)`", names):
            assert name in defined_in(DOCS / target), f"{target} has no {name}"


def defined_in(path: Path) -> set[str]:
    """Return a module's functions and classes, and `Class.method` of each."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    top = [
        node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, kinds)
    ]
    return {node.name for node in top} | {
        f"{node.name}.{inner.name}"
        for node in top
        if isinstance(node, ast.ClassDef)
        for inner in node.body
        if isinstance(inner, kinds)
    }


@pytest.mark.parametrize(
    "text", ["d**2", "d/2", "len(d)", "d.m", "-d", "1.5*d", "True", "[d]", "d if m else 1"]
)
def test_a_formula_is_arithmetic_and_nothing_else(text):
    with pytest.raises(ValueError, match="not arithmetic"):
        value(text, {"d": 2, "m": 3})


def test_a_formula_keeps_the_rules_of_arithmetic():
    assert value("(m + d) * 2 - d // 2", {"m": 3, "d": 5}) == 14
