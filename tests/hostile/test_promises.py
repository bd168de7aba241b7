"""Attacks by untrusted files: each is refused with one line, runs no code and takes no memory."""

import hashlib
import io
import json
import math
import os
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import small_config, unseal
from hostile.loaders import is_refused, with_checksum

from charlm.api import load
from charlm.compression.container import FORMAT, MAGIC
from charlm.config.load import load_config
from charlm.data.archives import extract_member
from charlm.errors import CharlmError, CheckpointError, ConfigError, FetchError
from charlm.evaluation.probes.agreement import read_pairs
from charlm.model.language_model import named_weights
from charlm.runs import prepare
from charlm.storage import untrusted
from charlm.storage.tensors import read_tensors
from charlm.storage.untrusted import MEGABYTE, one_line, parse_yaml
from charlm.training.devices import check_size


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of a run folder without checksums, so that its files can be changed."""
    copy = Path(shutil.copytree(tiny, tmp_path / "run"))
    unseal(copy)
    return copy


def refusal(folder: Path, case: object = None) -> str:
    """Return the one-line message with which loading a run folder is refused."""
    try:
        load(folder, device="cpu")
    except CheckpointError as error:
        assert str(error).isprintable(), case
        return str(error)
    raise AssertionError(f"accepted: {case}")


@contextmanager
def restored(path: Path) -> Iterator[None]:
    """Restore a file, or its absence, after the block."""
    data = path.read_bytes() if path.exists() else None
    yield
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)


def change_json(path: Path, **facts: object) -> None:
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | facts), encoding="utf-8"
    )


def replace_weights(folder: Path, data: bytes) -> None:
    """Replace the weights of the best checkpoint, with their checksum."""
    (folder / "best" / "weights-other.safetensors").write_bytes(data)
    entry = {"file": "weights-other.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
    change_json(folder / "best" / "state.json", files={"weights": entry})


def peak_megabytes(function, *arguments) -> float:
    """Return the peak memory that Python and numpy allocated during a call."""
    tracemalloc.start()
    try:
        function(*arguments)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak / MEGABYTE


def test_a_pickle_in_a_run_folder_is_refused_by_its_name(folder):
    for name in ("model.pkl", "best/optimizer.PT", "last/x.pickle"):
        with restored(folder / name):
            (folder / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
            message = refusal(folder, name)
            assert message.startswith(f"{folder / name}: ") and "pickle" in message


def test_control_characters_in_file_names_are_escaped(folder):
    entry = {"file": "weights\n\x7f.safetensors", "sha256": ""}
    change_json(folder / "best" / "state.json", files={"weights": entry})
    assert r"weights\n\x7f.safetensors" in refusal(folder)
    (folder / "a\x1b\n.lnk").symlink_to(folder / "config.yaml")
    assert r"a\x1b\n.lnk: " in refusal(folder)
    (folder / "a\x1b\n.lnk").rename(folder / "a\x1b\n.pkl")
    assert r"a\x1b\n.pkl: " in refusal(folder)


def test_unknown_files_in_a_run_folder_are_ignored(folder):
    (folder / "README.md").write_text("my notes")
    (folder / "samples").mkdir()
    assert load(folder, device="cpu").sample(length=3)


def test_a_symbolic_link_in_a_run_folder_is_refused(folder, tmp_path):
    for number, name in enumerate(
        ["config.yaml", "tokenizer.json", "best/state.json", "notes", "best"]
    ):
        target = tmp_path / f"elsewhere{number}"
        if (folder / name).exists():
            (folder / name).rename(target)
        (folder / name).symlink_to(target)
        message = refusal(folder, name)
        assert message.startswith(f"{folder / name}: ") and "link" in message
        (folder / name).unlink()
        if target.exists():
            target.rename(folder / name)


def test_a_pipe_in_a_run_folder_is_refused_without_waiting(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    message = refusal(folder)
    assert "tokenizer.json: cannot be read: not a regular file, but a folder, a pipe or" in message


def test_a_configuration_with_yaml_tags_is_refused_and_runs_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for text in (
        "!!python/object/apply:os.system ['touch owned']",
        "!!python/name:os.system",
        "{a: !!python/object:os.system {}}",
    ):
        (folder / "config.yaml").write_text(f"model: {text}")
        assert "tags such as !!python/object are not accepted" in refusal(folder, text)
        assert not (folder / "owned").exists(), text


def test_a_header_that_claims_two_gigabytes_is_refused_without_taking_memory(folder):
    header = b'{"a":{"dtype":"F32","shape":[536870912],"data_offsets":[0,2147'
    replace_weights(folder, struct.pack("<Q", 2 << 30) + header)
    assert peak_megabytes(lambda: refusal(folder)) < 1
    assert "not a valid safetensors file" in refusal(folder)


def test_a_tensor_of_a_type_that_torch_lacks_is_refused():
    header = json.dumps({"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    with pytest.raises(ValueError, match=r"^not a valid safetensors file: [^\n]+$"):
        read_tensors(struct.pack("<Q", len(header)) + header + b"\0")


def test_weights_that_do_not_fit_the_configuration_are_refused_before_the_model_is_built(folder):
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    for old, new in (
        ("hidden_size: 4 ", "hidden_size: 1048576 "),
        ("num_layers: 1 ", "num_layers: 256 "),
        ("embedding_size: 2 ", "embedding_size: 1048576 "),
        ("mixture: 1 ", "mixture: 1000 "),
    ):
        assert old in text
        config.write_text(text.replace(old, new), encoding="utf-8")
        assert "the weights do not fit config.yaml" in refusal(folder, new)


def test_sizes_of_a_model_have_upper_limits():
    for key in ("hidden_size", "embedding_size", "num_layers", "mixture"):
        with pytest.raises(ConfigError, match=rf"model\.{key}: must be at most \d+, got"):
            load_config(None, [f"model.{key}=1000000000"])


def test_a_model_larger_than_memory_is_refused_before_it_is_built(text_file, tmp_path):
    with pytest.raises(ConfigError, match=r"^model: .*[\d,]+ weights.* [\d,]+ GB"):
        prepare.begin(small_config(text_file, "model.hidden_size=1048576"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_checking_the_size_of_a_model_draws_no_random_numbers():
    torch.manual_seed(1)
    check_size(load_config().model, 50)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


def test_weights_that_are_not_finite_numbers_are_refused(folder):
    model = load(folder, device="cpu").model
    weights = {name: tensor.detach().clone() for name, tensor in named_weights(model)}
    bias = weights["projection.bias"]
    changed = [bias.to(dtype) for dtype in (torch.float8_e5m2, torch.int64, torch.complex64)]
    changed += [bias.index_fill(0, torch.tensor(1), value) for value in (math.nan, math.inf)]
    for tensor in changed:
        weights["projection.bias"] = tensor
        replace_weights(folder, safetensors.torch.save(weights))
        assert "projection.bias" in refusal(folder, tensor)


def test_a_model_whose_logits_overflow_is_refused(folder):
    run = load(folder, device="cpu")
    with torch.no_grad():
        for tensor in run.model.parameters():
            tensor.copy_(3e38 * torch.ones_like(tensor).cumsum(-1).remainder(2).sub(0.5).sign())
        run.model.projection.bias[2:4] = torch.tensor([torch.inf, -torch.inf])
    with pytest.raises(CharlmError, match="finite"):
        run.sample(length=20)


def test_a_file_of_another_run_is_refused_before_it_is_read(tiny, tmp_path):
    copy = Path(shutil.copytree(tiny, tmp_path / "run"))
    change_json(copy / "tokenizer.json", decoder=None)
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json: .*best/ was saved with.*the original"
    ):
        load(copy, device="cpu")
    unseal(copy)
    with pytest.raises(CheckpointError, match="not written by charlm"):
        load(copy, device="cpu")


def test_a_configuration_changed_on_purpose_is_accepted_without_its_checksums(tiny, tmp_path):
    copy = Path(shutil.copytree(tiny, tmp_path / "run"))
    config = (copy / "config.yaml").read_text(encoding="utf-8")
    (copy / "config.yaml").write_text(
        config.replace("batch_size: 4 ", "batch_size: 2 "), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=r"config\.yaml: .*the original"):
        prepare.resume(copy)
    unseal(copy)
    assert prepare.resume(copy).config.training.batch_size == 2


def test_a_tokenizer_may_do_nothing_but_look_up_tokens(folder):
    path = folder / "tokenizer.json"
    for changed in (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "a" * 9}},
        {"pre_tokenizer": None},
        {"post_processor": {"type": "ByteLevel", "add_prefix_space": True}},
        {"added_tokens": [{"id": 1, "content": "x", "special": True}]},
        {"truncation": {"max_length": 1}},
    ):
        with restored(path):
            change_json(path, **changed)
            assert "tokenizer.json: " in refusal(folder, changed)


def test_an_invalid_vocabulary_is_refused(folder):
    path = folder / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    for vocabulary in (
        {"a": 10**9},
        {"a": 2, "b": 2},
        {"a": -1},
        {"ab": 2},
        {"a": 2.0},
        {"\ud800": 2},
    ):
        change_json(path, model=model | {"vocab": {"<EOS>": 0, "<UNK>": 1} | vocabulary})
        assert "tokenizer.json: " in refusal(folder, vocabulary)


def test_a_file_larger_than_any_of_ours_is_not_read(folder):
    for name in ("config.yaml", "tokenizer.json", "corpus.json", "best/state.json"):
        with restored(folder / name):
            os.truncate(folder / name, 1 << 32)
            assert peak_megabytes(refusal, folder, name) < 10, name
            assert "4294967296 bytes" in refusal(folder, name)


def test_a_short_yaml_text_that_stands_for_an_enormous_value_is_refused():
    lines = [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in pairwise("abcdefghi")
    ]
    with pytest.raises(ValueError, match="anchors"):
        parse_yaml("\n".join(["a: &a [x]", *lines]))


def test_yaml_that_would_take_long_to_parse_is_refused(monkeypatch):
    assert (
        untrusted._MAX_YAML_VALUES == 20_000
    )  # Takes seconds; a lower limit works in the same way.
    monkeypatch.setattr(untrusted, "_MAX_YAML_VALUES", 500)
    for text in (
        "[" * 5_000,
        "a: " + "9" * 5000,
        "a: 1" + ":59" * 3000,
        "x: [" + "a," * 501 + "]",
        "x: '" + "a" * 20_000 + "'",
    ):
        with pytest.raises(ValueError, match=r"too deeply|more than"):
            parse_yaml(text)


def test_thousands_of_mistakes_give_one_line_of_limited_length(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "model:\n" + "".join(f"  key{number}: 1\n" for number in range(3000))
    )
    with pytest.raises(ConfigError, match=r"and 2980 more$"):
        load_config(tmp_path / "c.yaml")


def test_a_message_that_quotes_a_file_has_no_control_characters():
    assert one_line("a\x1b[2J\r\n\u2028\ud800b") == r"a\x1b[2J\r\n\u2028\ud800b"
    assert len(one_line("x" * 10**6)) < 5_000


def with_header(body: bytes) -> bytes:
    """Return a compressed file with this body."""
    return with_checksum(MAGIC + bytes([FORMAT]) + bytes(4) + body)


def test_a_compressed_file_unpacks_to_no_more_than_its_header_says(folder):
    deflater = zlib.compressobj(9, wbits=-15)
    bomb = with_header(
        bytes([0, 10]) + bytes(8) + deflater.compress(bytes(100 * MEGABYTE)) + deflater.flush()
    )
    run = load(folder, device="cpu")
    assert is_refused(run.decompress, bomb)  # The first call imports modules.
    assert peak_megabytes(is_refused, run.decompress, bomb) < 4 * len(bomb) / MEGABYTE


def test_the_torch_version_in_a_compressed_file_is_escaped_in_the_message(folder):
    run = load(folder, device="cpu")
    body = run.compress(b"The cat sat on the mat.")[len(MAGIC) + 5 :]
    version = torch.__version__.encode()
    changed = body.replace(version, b"\x1b[2J\r\n".ljust(len(version), b"x"))
    with pytest.raises(CheckpointError, match=r"torch \\x1b\[2J\\r\\n") as caught:
        run.decompress(with_header(changed))
    assert str(caught.value).isprintable()


def test_a_compressed_file_that_claims_an_endless_text_is_refused(folder):
    run = load(folder, device="cpu")
    body = run.compress(b"The cat sat on the mat.")[len(MAGIC) + 5 :]
    assert body[:2] == bytes([1, 23])  # Method and length; the tokens follow the settings.
    endless = b"\xff" * 8 + b"\x7f"
    start = body.index(bytes([0, 1, 23, 0]))  # Variant, streams, tokens, bytes of literals.
    claimed = body[:1] + endless + body[2:start] + bytes([0, 1]) + endless + body[start + 3 :]
    assert not is_refused(run.decompress, with_header(body))
    with pytest.raises(CharlmError, match="damaged"):
        run.decompress(with_header(claimed))


def saved_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Return the tensors and the facts of a saved generation state, without its checksum."""
    path = folder / "state"
    load(folder, device="cpu").sample(prompt="The", length=5, state_out=path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    facts = json.loads(header["__metadata__"]["charlm"])
    del facts["checksum"]
    return safetensors.torch.load(data), facts


def test_a_generation_state_that_the_model_cannot_have_is_refused(folder):
    tensors, facts = saved_state(folder)
    run = load(folder, device="cpu")
    for changed_tensors, changed_facts in (
        ({"ids": torch.tensor([10**9])}, {}),
        ({"ids": torch.tensor([-1])}, {}),
        ({"ids": torch.tensor([0.5])}, {}),
        ({"state.0.0": torch.zeros(1, 7)}, {}),
        ({"state.0.1": torch.full((1, 4), math.nan)}, {}),
        ({"state.9.0": torch.zeros(1, 4)}, {}),
        ({}, {"drawn": -1}),
        ({}, {"seed": "x"}),
        ({}, {"told": 10**30}),
    ):
        metadata = {"charlm": json.dumps(facts | changed_facts)}
        (folder / "state").write_bytes(safetensors.torch.save(tensors | changed_tensors, metadata))
        try:
            run.sample(length=3, state_in=folder / "state")
        except CheckpointError as error:
            assert f"{folder / 'state'}: " in str(error)
        else:
            raise AssertionError(f"accepted: {changed_tensors} {changed_facts}")


def test_any_changed_byte_of_a_generation_state_is_refused_or_harmless(folder):
    run = load(folder, device="cpu")
    path = folder / "state"
    run.sample(prompt="The", length=5, state_out=path)
    data, expected = path.read_bytes(), run.sample(length=3, state_in=path)
    for offset in range(0, len(data), 2):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        try:
            assert run.sample(length=3, state_in=path) == expected, offset
        except CheckpointError:
            continue


def test_an_archive_that_unpacks_without_end_is_refused_and_leaves_nothing(tmp_path):
    for mode in ("w:bz2", "w:xz"):
        with tarfile.open(tmp_path / "bomb", mode) as archive:
            member = tarfile.TarInfo("text.txt")
            member.size = 8 * MEGABYTE
            archive.addfile(member, io.BytesIO(bytes(member.size)))
        with pytest.raises(FetchError, match="unpacks to more than 1032 times its size"):
            extract_member(tmp_path / "bomb", "text.txt", tmp_path / "out" / "text.txt")
        assert list((tmp_path / "out").iterdir()) == [], mode


def test_an_archive_writes_only_to_the_given_destination(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../owned.txt", "owned")
    extract_member(tmp_path / "evil.zip", "../../owned.txt", tmp_path / "a" / "b" / "text.txt")
    assert (tmp_path / "a" / "b" / "text.txt").read_text() == "owned"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "evil.zip", "text.txt"]


def test_a_file_of_empty_lines_takes_little_memory(tmp_path):
    (tmp_path / "pairs").write_bytes(b"\n" * 2**16)
    assert peak_megabytes(is_refused, read_pairs, tmp_path / "pairs") < 4 / 16


def test_a_damaged_study_is_refused(text_file, tmp_path):
    from charlm.tuning.search import resume, tune
    from charlm.tuning.study import Budget

    config = small_config(text_file, "model.hidden_size=4", "training.steps=2")
    tune(config, ["training.learning_rate=1e-3..3e-2"], out=tmp_path / "s", budget=Budget(trials=1))
    path = tmp_path / "s" / "study.db"
    data = path.read_bytes()
    name = data.index(b"training.learning_rate")
    for damaged in (
        data[: len(data) // 2],
        data.replace(b'"config"', b'"cxnfig"'),
        data[:name] + b"\xba" + data[name + 1 :],
    ):
        for file in (tmp_path / "s").glob("study.db*"):
            file.unlink()
        path.write_bytes(damaged)
        assert is_refused(lambda _: resume(tmp_path / "s", budget=Budget(trials=1)), b"")
