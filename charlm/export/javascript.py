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
from typing import Any, NamedTuple

import numpy as np
import torch

from charlm.config.model import Model as ModelSection
from charlm.errors import CharlmError
from charlm.export.verification import Computed, Logits
from charlm.export.weights import read_weights
from charlm.model.language_model import LanguageModel
from charlm.model.uninitialized import uninitialized

_TIMEOUT_SECONDS = 600
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Reads each sequence of ids from the initial state; the result is all logits, fp32 in base64.
_COMPUTE = """\
const bytes = [];
for (const ids of inputs) {
  let state;
  for (const id of ids) {
    const step = model.step(id, state);
    state = step.state;
    const view = new Uint8Array(step.logits.buffer);
    for (let k = 0; k < view.length; k += 4096) {
      bytes.push(String.fromCharCode(...view.subarray(k, k + 4096)));
    }
  }
}
const result = btoa(bytes.join(""));
"""
_TO_NODE = "\nprocess.stdout.write(result);\n"
_TO_PAGE = '\ndocument.getElementById("result").textContent = result;\n'


class Program(NamedTuple):
    """The JavaScript of an exported file.

    Attributes:
        engine: Classes of the engine, as a script.
        model: JSON that the class `Model` reads.
    """

    engine: str
    model: str


class Output(NamedTuple):
    """The result of a script.

    Attributes:
        text: Text that the script assigned to `result`.
        runtime: Name of the runtime: node or chromium.
    """

    text: str
    runtime: str


def run_program(program: Program, inputs: Sequence[Sequence[int]]) -> Computed:
    """Return the logits after each input, by the first runtime that is installed.

    Without node and Chromium the weights of the file are read by charlm: this measures what the
    precision of the weights costs, but does not run the JavaScript.

    Raises:
        CharlmError: The runtime fails.
    """
    script = f"const model = new Model({program.model});\nconst inputs = {json.dumps(inputs)};\n"
    output = run_script(program.engine + script + _COMPUTE)
    if output is not None:
        return _computed(output, inputs)
    runtime = "charlm with the weights of the file (the JavaScript was not run: there is no node)"
    return Computed(_run_weights(json.loads(program.model), inputs), runtime)


def run_script(script: str) -> Output | None:
    """Run a script by the first runtime that is installed: node, else Chromium, else None.

    Args:
        script: JavaScript that assigns an ASCII text to the constant `result`.

    Raises:
        CharlmError: The runtime fails.
    """
    if node := shutil.which("node"):
        return Output(_run_node(node, script + _TO_NODE), "node")
    if chromium := find_chromium():
        return Output(run_in_chromium(chromium, script), "chromium")
    return None


def find_chromium() -> str | None:
    """Return the path of Chromium, or None if it is not installed."""
    return next(filter(None, map(shutil.which, _CHROMIUM_NAMES)), None)


def _run_node(node: str, script: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verify.cjs"
        path.write_text(script, encoding="utf-8")
        return _output_of([node, str(path)], "node")


def run_in_chromium(chromium: str, script: str) -> str:
    """Return the result of a script, as for `run_script`, which Chromium opens from a file.

    Raises:
        CharlmError: Chromium fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verify.html"
        page = f'<meta charset="utf-8"><pre id="result"></pre><script>{script}{_TO_PAGE}</script>'
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


def _computed(output: Output, inputs: Sequence[Sequence[int]]) -> Computed:
    try:
        logits = np.frombuffer(base64.b64decode(output.text, validate=True), dtype="<f4")
        rows = logits.reshape(sum(map(len, inputs)), -1)
    except (binascii.Error, ValueError):
        raise CharlmError(f"export to html: {output.runtime} returned no logits") from None
    return Computed(_split(rows, inputs), output.runtime)


def _split(rows: Logits, inputs: Sequence[Sequence[int]]) -> list[Logits]:
    return np.split(rows, np.cumsum([len(ids) for ids in inputs])[:-1])


@torch.inference_mode()
def _run_weights(description: dict[str, Any], inputs: Sequence[Sequence[int]]) -> list[Logits]:
    network = dict(description["network"])
    vocabulary_size = network.pop("vocabulary_size")
    del network["cell_sizes"]
    model = uninitialized(LanguageModel, ModelSection(**network), vocabulary_size).eval()
    read_weights(model, description["tensors"], base64.b64decode(description["weights"]))
    return [model(torch.tensor(ids)[:, None])[0][:, 0].numpy() for ids in inputs]
