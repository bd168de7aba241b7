"""What a stranger's file may try, and that it comes to nothing: one plain line, no code run, no memory taken."""

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
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import small_config, unseal
from hostile.loaders import is_refused

from charlm.api import load
from charlm.compression.container import FORMAT, MAGIC
from charlm.config.load import load_config
from charlm.data.fetching import unpack
from charlm.errors import CharlmError, CheckpointError, ConfigError, FetchError
from charlm.evaluation.probes.agreement import read_pairs
from charlm.model.language_model import named_weights
from charlm.runs import prepare
from charlm.storage.untrusted import MEGABYTE, one_line, parse_yaml
from charlm.training.devices import check_size


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of a run folder, whose files may be changed."""
    copy = Path(shutil.copytree(tiny, tmp_path / "run"))
    unseal(copy)
    return copy


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as told:
        load(folder, device="cpu")
    assert str(told.value).isprintable()
    return str(told.value)


def change_json(path: Path, **facts: object) -> None:
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | facts), encoding="utf-8"
    )


def put_weights(folder: Path, data: bytes) -> None:
    """Give the best checkpoint other weights, with the checksum that they have."""
    (folder / "best" / "weights-stranger.safetensors").write_bytes(data)
    entry = {"file": "weights-stranger.safetensors", "sha256": hashlib.sha256(data).hexdigest()}
    change_json(folder / "best" / "state.json", files={"weights": entry})


def peak_megabytes(act, *arguments) -> float:
    """Return the most memory that Python and numpy came to hold while `act` was at work."""
    tracemalloc.start()
    try:
        act(*arguments)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak / MEGABYTE


@pytest.mark.parametrize("name", ["model.pkl", "best/optimizer.PT", "last/x.pickle"])
def test_a_pickle_in_a_run_folder_is_refused_by_its_name(folder, name):
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    assert refusal(folder).startswith(f"{folder / name}: is a pickle by its name")


def test_names_that_would_break_or_steer_the_line_are_escaped(folder):
    entry = {"file": "weights\n\x7f.safetensors", "sha256": ""}
    change_json(folder / "best" / "state.json", files={"weights": entry})
    assert r"it names a file 'weights\n\x7f.safetensors'" in refusal(folder)
    (folder / "a\x1b\n.lnk").symlink_to(folder / "config.yaml")
    assert r"a\x1b\n.lnk: is a link" in refusal(folder)
    (folder / "a\x1b\n.lnk").rename(folder / "a\x1b\n.pkl")
    assert r"a\x1b\n.pkl: is a pickle" in refusal(folder)


def test_files_that_charlm_does_not_know_are_left_alone(folder):
    (folder / "README.md").write_text("my notes")
    (folder / "samples").mkdir()
    assert load(folder, device="cpu").sample(length=3)


@pytest.mark.parametrize(
    "name", ["config.yaml", "tokenizer.json", "best", "best/state.json", "notes"]
)
def test_a_link_in_a_run_folder_is_refused(folder, tmp_path, name):
    target = tmp_path / "elsewhere"
    if (folder / name).exists():
        (folder / name).rename(target)
    (folder / name).symlink_to(target)
    assert refusal(folder).startswith(f"{folder / name}: is a link")


def test_a_pipe_in_a_run_folder_is_not_waited_for(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    assert (
        "tokenizer.json: cannot be read: it is no file, but a folder, a pipe or a device"
        in refusal(folder)
    )


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch owned']",
        "!!python/name:os.system",
        "{a: !!python/object:os.system {}}",
    ],
)
def test_a_configuration_with_yaml_tags_is_refused_and_runs_nothing(folder, monkeypatch, text):
    monkeypatch.chdir(folder)
    (folder / "config.yaml").write_text(f"model: {text}")
    assert "not YAML: tags, such as !!python/object, are never read" in refusal(folder)
    assert not (folder / "owned").exists()


def test_a_header_that_claims_two_gigabytes_is_refused_for_nothing(folder):
    put_weights(
        folder,
        struct.pack("<Q", 2 << 30)
        + b'{"a":{"dtype":"F32","shape":[536870912],"data_offsets":[0,2147',
    )
    assert peak_megabytes(lambda: refusal(folder)) < 1
    assert "is no safetensors file, or a damaged one" in refusal(folder)


@pytest.mark.parametrize(
    "changes",
    [
        ("hidden_size: 4 ", "hidden_size: 1048576 "),
        ("num_layers: 1 ", "num_layers: 256 "),
        ("embedding_size: 2 ", "embedding_size: 1048576 "),
        ("mixture: 1 ", "mixture: 1000 "),
    ],
)
def test_a_network_that_its_weights_are_not_of_is_never_made(folder, changes):
    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert changes[0] in text
    config.write_text(text.replace(*changes), encoding="utf-8")
    assert "the weights do not fit config.yaml" in refusal(folder)


@pytest.mark.parametrize("key", ["hidden_size", "embedding_size", "num_layers", "mixture"])
def test_sizes_have_an_end(key):
    with pytest.raises(ConfigError, match=rf"model\.{key} must be less than or equal to"):
        load_config(None, [f"model.{key}=1000000000"])


def test_a_network_that_no_machine_holds_is_told_before_it_is_made(text_file, tmp_path):
    with pytest.raises(
        ConfigError, match=r"^model: has [\d,]+ weights, which take [\d,]+ GB, and this machine has"
    ):
        prepare.begin(small_config(text_file, "model.hidden_size=1048576"), tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_asking_for_the_size_of_a_network_draws_no_random_numbers():
    torch.manual_seed(1)
    check_size(load_config().model, 50)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, torch.float8_e5m2, torch.int64, torch.complex64]
)
def test_weights_that_are_no_finite_numbers_are_refused(folder, value):
    weights = {
        name: tensor.detach().clone()
        for name, tensor in named_weights(load(folder, device="cpu").model)
    }
    bias = weights["projection.bias"]
    if isinstance(value, torch.dtype):
        weights["projection.bias"] = bias.to(value)
    else:
        bias[1] = value
    put_weights(folder, safetensors.torch.save(weights))
    assert "projection.bias holds what is no finite number" in refusal(folder)


def test_a_model_whose_numbers_overflow_says_so(folder):
    loaded = load(folder, device="cpu")
    with torch.no_grad():
        for tensor in loaded.model.parameters():
            tensor.copy_(3e38 * torch.ones_like(tensor).cumsum(-1).remainder(2).sub(0.5).sign())
        loaded.model.projection.bias[2:4] = torch.tensor([torch.inf, -torch.inf])
    with pytest.raises(CharlmError, match="are no finite numbers"):
        loaded.sample(length=20)


def test_files_of_another_run_are_told_before_they_are_read(tiny, tmp_path):
    copy = Path(shutil.copytree(tiny, tmp_path / "run"))
    change_json(copy / "tokenizer.json", decoder=None)
    with pytest.raises(
        CheckpointError,
        match=r"tokenizer\.json: is not the one that best/ was saved with.*put the old",
    ):
        load(copy, device="cpu")
    unseal(copy)
    with pytest.raises(CheckpointError, match="charlm did not write it"):
        load(copy, device="cpu")


def test_a_configuration_that_is_changed_on_purpose_is_read_once_its_checksums_are_gone(
    tiny, tmp_path
):
    copy = Path(shutil.copytree(tiny, tmp_path / "run"))
    config = (copy / "config.yaml").read_text(encoding="utf-8")
    (copy / "config.yaml").write_text(
        config.replace("batch_size: 4 ", "batch_size: 2 "), encoding="utf-8"
    )
    with pytest.raises(
        CheckpointError, match=r"config\.yaml: is not the one .* put the old one back"
    ):
        prepare.resume(copy)
    unseal(copy)
    assert prepare.resume(copy).config.training.batch_size == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "a" * 9}},
        {"pre_tokenizer": None},
        {"post_processor": {"type": "ByteLevel", "add_prefix_space": True}},
        {"added_tokens": [{"id": 1, "content": "x", "special": True}]},
        {"truncation": {"max_length": 1}},
    ],
)
def test_what_a_tokenizer_does_besides_looking_up_words_is_not_a_stranger_s_to_say(folder, changed):
    change_json(folder / "tokenizer.json", **changed)
    assert "tokenizer.json: " in refusal(folder)


@pytest.mark.parametrize(
    "vocabulary", [{"a": 10**9}, {"a": 2, "b": 2}, {"a": -1}, {"ab": 2}, {"a": 2.0}, {"\ud800": 2}]
)
def test_a_vocabulary_that_is_none_is_refused(folder, vocabulary):
    path = folder / "tokenizer.json"
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    change_json(path, model=model | {"vocab": {"<EOS>": 0, "<UNK>": 1} | vocabulary})
    assert "tokenizer.json: " in refusal(folder)


@pytest.mark.parametrize(
    "name", ["config.yaml", "tokenizer.json", "corpus.json", "best/state.json"]
)
def test_a_file_that_is_larger_than_ours_can_be_is_not_read(folder, name):
    os.truncate(folder / name, 1 << 32)
    assert peak_megabytes(lambda: refusal(folder)) < 10
    assert "are never read" in refusal(folder)


def test_a_short_text_that_becomes_an_endless_value_is_refused():
    lines = [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]"
        for before, name in pairwise("abcdefghi")
    ]
    with pytest.raises(ValueError, match="anchors"):
        parse_yaml("\n".join(["a: &a [x]", *lines]))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5_000,
        "a: " + "9" * 5000,
        "a: 1" + ":59" * 3000,
        "x: [" + "a," * 21_000 + "]",
        "x: '" + "a" * 20_000 + "'",
    ],
)
def test_yaml_that_would_take_long_is_refused(text):
    with pytest.raises(ValueError, match=r"too deeply|more than"):
        parse_yaml(text)


def test_a_mistake_for_each_of_many_keys_is_one_line_that_ends(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "model:\n" + "".join(f"  key{number}: 1\n" for number in range(3000))
    )
    with pytest.raises(ConfigError, match=r"and 2980 more$"):
        load_config(tmp_path / "c.yaml")


def test_a_message_that_quotes_a_file_commands_no_terminal():
    assert one_line("a\x1b[2J\r\n\u2028\ud800b") == r"a\x1b[2J\r\n\u2028\ud800b"
    assert len(one_line("x" * 10**6)) < 5_000


def sealed(body: bytes) -> bytes:
    return MAGIC + bytes([FORMAT]) + zlib.crc32(body).to_bytes(4, "little") + body


def test_a_compressed_file_gives_no_more_than_it_says(folder):
    deflater = zlib.compressobj(9, wbits=-15)
    bomb = sealed(
        bytes([0, 10]) + bytes(8) + deflater.compress(bytes(100 * MEGABYTE)) + deflater.flush()
    )
    loaded = load(folder, device="cpu")
    assert peak_megabytes(is_refused, loaded.decompress, bomb) < 4 * len(bomb) / MEGABYTE
    assert is_refused(loaded.decompress, bomb)


def test_what_a_compressed_file_calls_its_torch_commands_no_terminal(folder):
    loaded = load(folder, device="cpu")
    body = loaded.compress(b"The cat sat on the mat.")[len(MAGIC) + 5 :]
    version = torch.__version__.encode()
    changed = body.replace(version, b"\x1b[2J\r\n".ljust(len(version), b"x"))
    with pytest.raises(CheckpointError, match=r"was compressed with torch \\x1b\[2J\\r\\n") as told:
        loaded.decompress(sealed(changed))
    assert str(told.value).isprintable()


def test_a_compressed_file_that_claims_an_endless_text_is_refused(folder):
    loaded = load(folder, device="cpu")
    whole = loaded.compress(b"The cat sat on the mat.")
    body = whole[len(MAGIC) + 5 :]
    assert body[:2] == bytes([1, 23])  # Method and length; tokens come after the facts.
    endless = b"\xff" * 8 + b"\x7f"
    at = body.index(bytes([0, 1, 23, 0]))  # Variant, streams, tokens, bytes of literals.
    claimed = body[:1] + endless + body[2:at] + bytes([0, 1]) + endless + body[at + 3 :]
    assert not is_refused(loaded.decompress, sealed(body))
    with pytest.raises(CharlmError, match="is damaged or cut short"):
        loaded.decompress(sealed(claimed))


def place_of(folder: Path, **facts: object) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    loaded = load(folder, device="cpu")
    path = folder / "place"
    loaded.sample(prompt="The", length=5, state_out=path)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    told = json.loads(header["__metadata__"]["charlm"])
    del told["checksum"]
    return safetensors.torch.load(data), told | facts


@pytest.mark.parametrize(
    ("tensors", "facts"),
    [
        ({"ids": torch.tensor([10**9])}, {}),
        ({"ids": torch.tensor([-1])}, {}),
        ({"ids": torch.tensor([0.5])}, {}),
        ({"state.0.0": torch.zeros(1, 7)}, {}),
        ({"state.0.1": torch.full((1, 4), math.nan)}, {}),
        ({"state.9.0": torch.zeros(1, 4)}, {}),
        ({}, {"drawn": -1}),
        ({}, {"seed": "x"}),
        ({}, {"told": 10**30}),
    ],
)
def test_a_place_that_no_text_of_this_model_stood_at_is_refused(folder, tensors, facts):
    whole, told = place_of(folder, **facts)
    loaded = load(folder, device="cpu")
    (folder / "place").write_bytes(
        safetensors.torch.save(whole | tensors, {"charlm": json.dumps(told)})
    )
    with pytest.raises(CheckpointError, match="place: is "):
        loaded.sample(length=3, state_in=folder / "place")


def test_a_place_is_told_whatever_byte_of_it_changed(folder):
    loaded = load(folder, device="cpu")
    path = folder / "place"
    loaded.sample(prompt="The", length=5, state_out=path)
    data, expected = path.read_bytes(), loaded.sample(length=3, state_in=path)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            assert loaded.sample(length=3, state_in=path) == expected, at
        except CheckpointError:
            continue


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
def test_an_archive_that_unpacks_without_end_is_refused_and_leaves_nothing(tmp_path, mode):
    with tarfile.open(tmp_path / "bomb", mode) as opened:
        member = tarfile.TarInfo("text.txt")
        member.size = 8 * MEGABYTE
        opened.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(FetchError, match="unpacks to more than 1032 times its size"):
        unpack(tmp_path / "bomb", "text.txt", tmp_path / "out" / "text.txt")
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_writes_nowhere_but_where_it_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as opened:
        opened.writestr("../../owned.txt", "owned")
    unpack(tmp_path / "evil.zip", "../../owned.txt", tmp_path / "a" / "b" / "text.txt")
    assert (tmp_path / "a" / "b" / "text.txt").read_text() == "owned"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "evil.zip", "text.txt"]


def test_pairs_of_nothing_but_line_ends_take_no_memory(tmp_path):
    (tmp_path / "pairs").write_bytes(b"\n" * 2**16)
    assert peak_megabytes(is_refused, read_pairs, tmp_path / "pairs") < 4 / 16


def test_a_damaged_search_is_told(text_file, tmp_path):
    from charlm.tuning.search import resume, tune
    from charlm.tuning.study import Budget

    config = small_config(text_file, "model.hidden_size=4", "training.steps=2")
    tune(config, ["training.learning_rate=1e-3..3e-2"], out=tmp_path / "s", budget=Budget(trials=1))
    path = tmp_path / "s" / "study.db"
    data = path.read_bytes()
    name = data.index(b"training.learning_rate")
    for changed in (
        data[: len(data) // 2],
        data.replace(b'"config"', b'"cxnfig"'),
        data[:name] + b"\xba" + data[name + 1 :],
    ):
        for left in (tmp_path / "s").glob("study.db*"):
            left.unlink()
        path.write_bytes(changed)
        assert is_refused(lambda _: resume(tmp_path / "s", budget=Budget(trials=1)), b"")
