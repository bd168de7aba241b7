"""`charlm inspect`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from charlm.cli.options import Folder, Json, NamedRun, Which, choose_run
from charlm.cli.terminal import emit_result

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import Run


def inspect(
    run: Folder = None,
    named_run: NamedRun = None,
    which: Which = "best",
    as_json: Json = False,
) -> None:
    """Print the number of parameters of a model, and of each of its tensors.

    Try: charlm inspect
    """
    from charlm.api import load
    from charlm.model.language_model import count_parameters

    loaded = load(choose_run(run, named_run), which=which, device="cpu")
    rows = count_parameters(loaded.model)
    total = sum(size for _, _, size in rows)
    tensors = [{"name": name, "shape": shape, "parameters": size} for name, shape, size in rows]
    data = {"run": str(loaded.folder), "parameters": total, "tensors": tensors}
    emit_result(data, _table(loaded, tensors, total), as_json=as_json)


def _table(run: "Run", tensors: list[dict[str, Any]], total: int) -> Iterator[str]:
    section = run.config.model
    sizes = ", ".join(str(cell.hidden_size) for cell in run.model.encoder.recurrence.layers)
    facts = f"{section.cell.kind} of {sizes}, {section.direction}, step {run.state['step']:,}"
    yield f"{run.folder}: {facts}"
    width = max(len(tensor["name"]) for tensor in tensors)
    for tensor in [*tensors, {"name": "all", "shape": (), "parameters": total}]:
        shape = " x ".join(map(str, tensor["shape"]))
        size = tensor["parameters"]
        yield f"{tensor['name']:<{width}}  {shape:>14}  {size:>12,}  {size / total:>6.1%}"
