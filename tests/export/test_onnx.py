"""Export to ONNX: the step of every recurrence in onnxruntime, the file, and the example program."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import TEXT
from export.models import OPTIONS, STD, passage_of, random_model
from model.cells_table import CELLS

import charlm
from charlm.cli.main import run as command_line
from charlm.errors import CharlmError
from charlm.export import exporting, onnx_graph
from charlm.export import onnx as target
from charlm.export.onnx_graph import step_to_onnx
from charlm.export.options import ExportOptions
from charlm.export.verification import compare_logits, compute_logits
from charlm.model.fast.int8 import with_int8_products
from charlm.model.language_model import LanguageModel
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.trained_model import TrainedModel

ROOT = Path(__file__).parents[2]
MODELS = {name: {"cell": cell} for name, cell in CELLS.items()} | OPTIONS
TOKENS = 64
# Runs the program on each file in an environment that has neither torch nor charlm.
WITHOUT_TORCH = """
import json, runpy, sys
sys.modules["torch"] = sys.modules["charlm"] = None
for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["generate_onnx.py", *arguments]
    runpy.run_path(sys.argv.pop(1))
    print("\\0", end="")
"""


class Session:
    """An ONNX model in onnxruntime."""

    def __init__(self, model: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.names = [item.name for item in self.session.get_inputs()]

    def run(self, ids: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the logits after each id, (time, batch, vocabulary), and the last states."""
        logits = []
        for row in ids:
            inputs = dict(zip(self.names, [row, *states], strict=True))
            step_logits, *states = self.session.run(None, inputs)
            logits.append(step_logits)
        return np.stack(logits), states


def initial_states(model: LanguageModel, batch: int) -> list[np.ndarray]:
    return flat(model.initial_states(batch))


def flat(states) -> list[np.ndarray]:
    return [part.detach().numpy() for state in states for part in state]


def greedy_ids(trained: TrainedModel) -> list[int]:
    stop, filters = StopCondition(length=TOKENS), Filters(temperature=0)
    return sample(trained, SampleOptions(stop=stop, filters=filters))[0].tokens


def greedy_ids_of(session: Session, model: LanguageModel) -> list[int]:
    states, ids = initial_states(model, 1), [0]
    for _ in range(TOKENS):
        logits, states = session.run(np.array([ids[-1:]]), states)
        logits[..., 1] = -np.inf
        ids.append(int(logits.argmax()))
    return ids[1:]


@pytest.mark.parametrize("name", MODELS)
def test_a_step_computes_what_charlm_computes(name):
    trained = random_model(MODELS[name], std=STD.get(name, 0.15))
    model = trained.model
    session = Session(step_to_onnx(model))
    ids = torch.randint(
        0, model.vocabulary_size, (TOKENS, 5), generator=torch.Generator().manual_seed(2)
    )
    with torch.inference_mode():
        expected, states_after = model(ids)
    logits, states = session.run(ids.numpy(), initial_states(model, 5))
    bound = 1e-4 * max(1.0, float(expected.abs().max()))
    assert abs(logits - expected.numpy()).max() < bound
    for part, expected_part in zip(states, flat(states_after), strict=True):
        np.testing.assert_allclose(part, expected_part, rtol=1e-4, atol=1e-4)
    alone, _ = session.run(ids[:, :1].numpy(), initial_states(model, 1))
    assert abs(alone - expected[:, :1].numpy()).max() < bound
    if model.direction == "forward":
        assert greedy_ids_of(session, model) == greedy_ids(trained)


def test_int8_computes_what_charlm_computes_in_int8():
    names = ["lstm", "gru_reset_before", "nested_lstm_depth_2", "min_lstm", "slstm"]
    for name in [*names, "mixture", "adaptive", "one-hot", "tied, adapter", "layer norm, residual"]:
        trained = random_model(MODELS[name])
        model = with_int8_products(trained.model, min_weights=0)
        step = step_to_onnx(model)
        products = [node.op_type for node in step.graph.node]
        assert "MatMulInteger" in products and "Gemm" not in products, name
        ids = torch.randint(0, model.vocabulary_size, (20, 5))
        with torch.inference_mode():
            expected, _ = model(ids)
        logits, _ = Session(step).run(ids.numpy(), initial_states(model, 5))
        # A number halfway between two integers may be rounded up by one and down by the other.
        differences = abs(logits - expected.numpy()) / max(1.0, float(expected.abs().max()))
        assert np.median(differences) < 1e-6 and differences.max() < 0.01, name


def test_the_file_is_complete_and_small(trained, tmp_path):
    run = charlm.load(trained)
    sizes = {}
    for precision in ("fp32", "int8"):
        path = tmp_path / f"{precision}.onnx"
        result = charlm.export_run(run, "onnx", path, precision=precision)
        assert result.verification.runtime.startswith("onnxruntime")
        assert abs(result.verification.nats_difference) < (1e-5, 0.005)[precision == "int8"]
        sizes[precision] = result.bytes
    assert {path.name for path in tmp_path.iterdir()} == {"fp32.onnx", "int8.onnx"}
    facts = {item.key: item.value for item in onnx.load(path).metadata_props}
    assert facts["mode"] == "stream" and facts["direction"] == "forward"
    assert json.loads(facts["initial_states"]) == [[0.0] * 16] * 2
    assert json.loads(facts["model"])["hidden_size"] == [16]
    assert json.loads(facts["facts"])["precision"] == "int8"
    assert json.loads(facts["corpus"]) == {"title": "text.txt", "license": "not stated"}
    assert str(trained.parent) not in str(facts)
    weights = sum(parameter.numel() for parameter in run.model.parameters())
    assert sizes["fp32"] > 4 * weights > sizes["fp32"] - 12_000 > sizes["int8"] - 12_000


def test_every_input_and_output_has_a_name_and_a_free_batch_size():
    step = step_to_onnx(random_model({"num_layers": 2}).model)
    shapes = {
        item.name: [size.dim_param or size.dim_value for size in item.type.tensor_type.shape.dim]
        for item in [*step.graph.input, *step.graph.output]
    }
    states = {f"state_{number}": ["batch", 32] for number in range(4)}
    vocabulary = random_model().model.vocabulary_size
    assert shapes == {
        "token": ["batch"],
        **states,
        "logits": ["batch", vocabulary],
        **{f"next_{name}": shape for name, shape in states.items()},
    }


def test_a_tied_matrix_is_stored_once():
    model = random_model({"tied": True, "embedding_size": 32}).model
    step = step_to_onnx(model)
    shapes = [tuple(item.dims) for item in step.graph.initializer]
    assert shapes.count((model.vocabulary_size, 32)) == 1


def test_an_operator_without_a_counterpart_is_refused(monkeypatch):
    monkeypatch.delitem(onnx_graph._TRANSLATORS, "split")
    with pytest.raises(CharlmError, match="the operator split of torch has no counterpart"):
        step_to_onnx(random_model().model)


def test_an_option_of_an_operator_that_would_be_ignored_is_refused(monkeypatch):
    def step(token: torch.Tensor, *states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.add(states[0], states[0], alpha=2), *states

    monkeypatch.setattr(onnx_graph, "_step_of", lambda model: step)
    with pytest.raises(CharlmError, match="the option alpha of add is not expected"):
        step_to_onnx(random_model().model)


def test_a_missing_package_is_named(monkeypatch, trained, tmp_path):
    monkeypatch.setattr(exporting, "find_spec", lambda module: None)
    with pytest.raises(CharlmError, match=r"needs onnx, onnxruntime.*pip install '.*\[onnx\]'"):
        charlm.export_run(charlm.load(trained), "onnx", tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_into_a_file_are_refused(monkeypatch, trained, tmp_path):
    monkeypatch.setattr(target, "_MAX_BYTES", 1000)
    with pytest.raises(CharlmError, match=r"a file of ONNX holds at most 1,000"):
        charlm.export_run(charlm.load(trained), "onnx", tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_damaged_run_or_a_diverged_model_leaves_nothing(trained, tmp_path, capfd):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (weights,) = (folder / "best").glob("weights*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    out = tmp_path / "new" / "x.onnx"
    arguments = ["export", str(folder), "--to", "onnx", "--out", str(out), "--int8"]
    assert command_line(arguments) == 1
    error = capfd.readouterr().err
    assert str(folder) in error and error.count("\n") == 1
    run = charlm.load(trained)
    with torch.no_grad():
        run.model.projection.bias[2] = torch.nan
    for precision in ("fp32", "int8"):
        with pytest.raises(CharlmError, match=r"differs from charlm by \+?nan"):
            charlm.export_run(run, "onnx", out, precision=precision)
    assert not out.exists() and not any(path.suffix == ".onnx" for path in tmp_path.rglob("*"))


def test_the_states_of_the_file_are_the_learned_ones(tmp_path):
    trained = random_model(OPTIONS["learned initial state"])
    options = ExportOptions("onnx", tmp_path / "x")
    target.write(trained, options, tmp_path / "x")
    passage = passage_of(trained, 20)
    computed = target.compute(tmp_path / "x", passage, options)
    compare_logits(compute_logits(trained, passage), computed, passage, "fp32")


def test_the_example_writes_the_text_of_charlm_without_torch_and_charlm(
    trained, trained_records, tmp_path
):
    models = {
        "stream": charlm.load(trained).trained,
        "records": charlm.load(trained_records).trained,
    }
    for level, size in (("byte", ()), ("word", ()), ("bpe", ("tokenizer.vocabulary_size=300",))):
        overrides = (f"tokenizer.level={level}", *size)
        models[level] = random_model(text=TEXT, overrides=overrides, std=0.5)
    models["backward"] = random_model({"direction": "backward"}, text=TEXT, std=0.5)
    jobs, expected = [], []
    program = str(ROOT / "examples" / "generate_onnx.py")
    for name, model in models.items():
        path = tmp_path / name
        target.write(model, ExportOptions("onnx", path), path)
        # A prompt of subwords may end within a token, which charlm completes.
        prompt = {"records": "ba", "word": "The", "bpe": ""}.get(name, "The ")
        jobs.append(
            [program, str(path), f"--prompt={prompt}", "--temperature=0", f"--length={TOKENS}"]
        )
        options = SampleOptions(
            prompt, stop=StopCondition(length=TOKENS), filters=Filters(temperature=0)
        )
        expected.append(sample(model, options)[0].text)
    jobs.append([program, str(tmp_path / "stream"), "--seed=1", "--length=50"])
    result = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", WITHOUT_TORCH],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    *texts, drawn, _ = result.stdout.split("\n\0")
    assert texts == expected
    assert len(drawn) == 50 and len(set(drawn)) > 5
