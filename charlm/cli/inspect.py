"""`charlm inspect`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from charlm.cli.options import Folder, Json, NamedRun, Which, choose_run
from charlm.cli.terminal import emit_result

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import Run
    from charlm.tasks.label_run import LabelRun
    from charlm.tasks.translation import Translator


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
    from charlm.api import load
    from charlm.model.descriptions import describe_weights
    from charlm.model.language_model import count_parameters
    from charlm.tasks.label_run import load_labels
    from charlm.tasks.translation import load_translator
    from charlm.trained_model import LabelModelError

    loaded: Run | LabelRun | Translator
    try:
        loaded = load(choose_run(run, named_run), which=which, device="cpu")
    except LabelModelError as error:
        load_it = load_translator if error.kind == "translate" else load_labels
        loaded = load_it(error.folder, which=which, device="cpu")
    rows = count_parameters(loaded.model)
    total = sum(size for _, _, size in rows)
    descriptions = describe_weights(loaded.model, loaded.config.model.cell.kind)
    tensors = [
        {"name": name, "description": description, "shape": shape, "parameters": size}
        for description, (name, shape, size) in zip(descriptions, rows, strict=True)
    ]
    data = {"run": str(loaded.folder), "parameters": total, "tensors": tensors}
    emit_result(data, _table(loaded, tensors, total), as_json=as_json)


def _table(
    run: "Run | LabelRun | Translator", tensors: list[dict[str, Any]], total: int
) -> Iterator[str]:
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
