"""Export to ONNX: one step of the model in one file, run by onnxruntime."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from onnx import helper

from charlm.data.tokenizer import EOS, UNK
from charlm.errors import CharlmError
from charlm.export.description import describe_model
from charlm.export.onnx_graph import step_to_onnx
from charlm.export.options import ExportOptions
from charlm.export.verification import Computed, Logits, Passage
from charlm.model.fast.int8 import with_int8_products
from charlm.trained_model import TrainedModel, provenance

_MAX_BYTES = 2_000_000_000  # A protocol buffer has at most 2 GiB, of which the graph needs a part.


def write(trained: TrainedModel, options: ExportOptions, path: Path) -> None:
    """Write a trained model to a file.

    In int8, products are computed as `charlm sample --int8` computes them: weights in int8 with one
    scale per row, vectors quantized one by one.
    """
    model = trained.model
    if options.weight_precision == "int8":
        model = with_int8_products(model, min_weights=0, in_integers=True)
    _check_size(trained)
    step = step_to_onnx(model)
    helper.set_model_props(step, _metadata(trained, options))
    path.write_bytes(step.SerializeToString())


def compute(path: Path, passage: Passage, options: ExportOptions) -> Computed:
    """Compute logits from the file by onnxruntime."""
    session = _session(path)
    logits = [np.concatenate(list(_logits(session, sequence))) for sequence in passage.inputs]
    return Computed(logits, f"onnxruntime {onnxruntime.__version__}")


def _check_size(trained: TrainedModel) -> None:
    """Raise CharlmError if the weights do not fit into one file."""
    size = sum(parameter.nbytes for parameter in trained.model.parameters())
    if size > _MAX_BYTES:
        raise CharlmError(
            f"{trained.folder}: the weights have {size:,} bytes, and a file of ONNX holds at most "
            f"{_MAX_BYTES:,}; export with --to torch"
        )


def _metadata(trained: TrainedModel, options: ExportOptions) -> dict[str, str]:
    """Return what a program needs besides the weights, and what the model is."""
    states = chain.from_iterable(trained.model.initial_states(1))
    facts = {"run": trained.folder.name, "precision": options.weight_precision}
    about = describe_model(trained, "fp32")
    corpus = {"title": about.title, "license": about.licence}  # No folders of the user.
    return {
        "tokenizer": trained.tokenizer.to_json(),
        "initial_states": json.dumps([part[0].tolist() for part in states]),
        "eos_id": str(EOS),
        "eos_text": trained.tokenizer.decode([EOS]),
        "unknown_id": str(UNK),
        "mode": trained.mode,
        "direction": trained.model.direction,
        "model": trained.config.model.model_dump_json(),
        "facts": json.dumps(provenance(trained) | facts),
        "corpus": json.dumps(corpus),
    }


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def _logits(session: onnxruntime.InferenceSession, ids: list[int]) -> Iterator[Logits]:
    """Yield the logits after each id, (1, vocabulary), from the initial state of the file."""
    metadata = session.get_modelmeta().custom_metadata_map
    names = [item.name for item in session.get_inputs()]
    states = [
        np.array([state], dtype=np.float32) for state in json.loads(metadata["initial_states"])
    ]
    for token in ids:
        inputs = [np.array([token]), *states]
        logits, *states = session.run(None, dict(zip(names, inputs, strict=True)))
        yield logits
