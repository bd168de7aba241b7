"""`charlm inspect`: the parameters of a model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from charlm.cli.loading import load_any
from charlm.cli.options import Folder, Json, NamedRun, Which, choose_run
from charlm.cli.terminal import emit_table

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import AnyRun


def inspect(
    run: Folder = None,
    named_run: NamedRun = None,
    which: Which = "best",
    as_json: Json = False,
) -> None:
    """Print the number of parameters of a model, and of each of its tensors.

    --json also has the name of each tensor in the files of the run.

    Try: charlm inspect
    """
    loaded = load_any(choose_run(run, named_run), which=which, device="cpu")
    from charlm.model.descriptions import describe_weights
    from charlm.model.language_model import count_parameters

    rows = count_parameters(loaded.model)
    total = sum(size for _, _, size in rows)
    descriptions = describe_weights(loaded.model, loaded.config.model.cell.kind)
    tensors = [
        {"name": name, "description": description, "shape": shape, "parameters": size}
        for description, (name, shape, size) in zip(descriptions, rows, strict=True)
    ]
    data = {"run": str(loaded.folder), "parameters": total, "tensors": tensors}
    emit_table(data, _table(loaded, tensors, total), as_json=as_json)


def _table(run: "AnyRun", tensors: list[dict[str, Any]], total: int) -> Iterator[str]:
    section = run.config.model
    sizes = ", ".join(str(cell.hidden_size) for cell in run.model.encoder.recurrence.layers)
    block = f" in blocks of kind {section.block}" if section.block != "none" else ""
    facts = (
        f"{section.cell.kind} of {sizes}{block}, {section.direction}, step {run.state['step']:,}"
    )
    if run.config.task.has_pairs:
        facts += f", task {run.config.task.kind}"
    yield f"{run.folder}: {facts}"
    if ancestor := run.corpus.get("ancestor"):
        yield f"trained from the weights of {ancestor['name']} ({ancestor['weights'][:12]})"
    width = max(len(tensor["description"]) for tensor in tensors)
    for tensor in [*tensors, {"description": "all", "shape": (), "parameters": total}]:
        shape = " x ".join(map(str, tensor["shape"]))
        size = tensor["parameters"]
        yield f"{tensor['description']:<{width}}  {shape:>14}  {size:>12,}  {size / total:>6.1%}"
