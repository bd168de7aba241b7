"""Run exported JavaScript: in node where it is installed, else in Chromium, else not at all."""

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from charlm.config.schema import Model as ModelSection
from charlm.errors import CharlmError
from charlm.export.verification import Computed, Logits
from charlm.export.weights import read_weights
from charlm.model.uninitialized import uninitialized_model

_TIMEOUT_SECONDS = 600
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Reads each sequence of ids from the initial state; returns all logits as fp32 in base64.
_COMPUTE = """\
const outputs = [];
for (const ids of inputs) {
  let state;
  for (const id of ids) {
    const step = model.step(id, state);
    state = step.state;
    outputs.push(step.logits);
  }
}
const bytes = outputs.map((logits) => new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength));
"""
_TO_NODE = 'process.stdout.write(Buffer.concat(bytes).toString("base64"));\n'
_TO_PAGE = """\
const texts = bytes.map((part) => String.fromCharCode(...part));
document.getElementById("result").textContent = btoa(texts.join(""));
"""


class Program(NamedTuple):
    """The JavaScript of an exported file.

    Attributes:
        engine: Classes of the engine, as a script.
        model: JSON that the class `Model` reads.
    """

    engine: str
    model: str


def run_program(program: Program, inputs: Sequence[Sequence[int]]) -> Computed:
    """Return the logits after each input, by the first runtime that is installed.

    Without node and Chromium the weights of the file are read by charlm: this measures what the
    precision of the weights costs, but does not run the JavaScript.

    Raises:
        CharlmError: The runtime fails.
    """
    script = f"const model = new Model({program.model});\nconst inputs = {json.dumps(inputs)};\n"
    script = program.engine + script + _COMPUTE
    if node := shutil.which("node"):
        return _computed(_run_node(node, script + _TO_NODE), inputs, "node")
    if chromium := find_chromium():
        return _computed(_run_chromium(chromium, script + _TO_PAGE), inputs, "chromium")
    runtime = "charlm with the weights of the file (the JavaScript was not run: there is no node)"
    return Computed(_run_weights(json.loads(program.model), inputs), runtime)


def find_chromium() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return next(filter(None, map(shutil.which, _CHROMIUM_NAMES)), None)


def _run_node(node: str, script: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verify.cjs"
        path.write_text(script, encoding="utf-8")
        return _output_of([node, str(path)], "node")


def _run_chromium(chromium: str, script: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verify.html"
        page = f'<meta charset="utf-8"><pre id="result"></pre><script>{script}</script>'
        path.write_text(page, encoding="utf-8")
        arguments = ["--headless", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium does not start as root otherwise.
        text = _output_of([chromium, *arguments, "--dump-dom", path.as_uri()], "chromium")
    result = re.search(r'<pre id="result">([^<]*)</pre>', text)
    return result[1] if result else ""


def _output_of(command: list[str], runtime: str) -> str:
    try:
        result = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CharlmError(f"export to html: {runtime} cannot be run: {error}") from None
    if result.returncode:
        lines = result.stderr.decode(errors="replace").split("\n")
        problem = next((line for line in lines if "Error" in line), "no message")
        raise CharlmError(f"export to html: {runtime} failed: {problem.strip()[:200]}")
    return result.stdout.decode(errors="replace")


def _computed(text: str, inputs: Sequence[Sequence[int]], runtime: str) -> Computed:
    try:
        logits = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
        rows = logits.reshape(sum(map(len, inputs)), -1)
    except (binascii.Error, ValueError):
        raise CharlmError(f"export to html: {runtime} returned no logits") from None
    return Computed(_split(rows, inputs), runtime)


def _split(rows: Logits, inputs: Sequence[Sequence[int]]) -> list[Logits]:
    return np.split(rows, np.cumsum([len(ids) for ids in inputs])[:-1])


@torch.inference_mode()
def _run_weights(description: dict[str, object], inputs: Sequence[Sequence[int]]) -> list[Logits]:
    network = dict(description["network"])  # type: ignore[call-overload]
    vocabulary_size = network.pop("vocabulary_size")
    del network["cell_sizes"]
    model = uninitialized_model(ModelSection(**network), vocabulary_size).eval()
    read_weights(model, description["tensors"], base64.b64decode(str(description["weights"])))
    return [model(torch.tensor(ids)[:, None])[0][:, 0].numpy() for ids in inputs]
