"""`charlm inspect`."""

from charlm.cli.options import Folder, Json, Which
from charlm.cli.terminal import emit, emit_json


def inspect(
    run: Folder = None,
    which: Which = "best",
    as_json: Json = False,
) -> None:
    """Answer how many parameters a model has, and where.

    Try: charlm inspect
    """
    from charlm.api import load
    from charlm.model.language_model import count_parameters

    loaded = load(run, which=which, device="cpu")
    rows = count_parameters(loaded.model)
    total = sum(size for _, _, size in rows)
    if as_json:
        listed = [{"name": name, "shape": shape, "parameters": size} for name, shape, size in rows]
        emit_json({"run": str(loaded.folder), "parameters": total, "tensors": listed})
        return
    section, step = loaded.config.model, loaded.state["step"]
    sizes = ", ".join(str(cell.hidden_size) for cell in loaded.model.encoder.recurrence.layers)
    emit(f"{loaded.folder}: {section.cell.kind} of {sizes}, {section.direction}, step {step:,}")
    width = max(len(name) for name, _, _ in rows)
    for name, shape, size in [*rows, ("all", (), total)]:
        emit(
            f"{name:<{width}}  {' x '.join(map(str, shape)):>14}  {size:>12,}  {size / total:>6.1%}"
        )
