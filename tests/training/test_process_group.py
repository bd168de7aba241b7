"""Data-parallel training: the numbers of one process, for any number of them, also after a kill."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, small_config, train_all
from filelock import FileLock
from safetensors.torch import load_file

import charlm as package
from charlm.cli.main import run as charlm
from charlm.config import cell as cell_section
from charlm.config.load import load_config
from charlm.data.tokenizer import EOS
from charlm.data.windows.records import record_windows
from charlm.data.windows.scoring import scoring_record_windows, scoring_windows
from charlm.data.windows.streams import StreamOptions, stream_windows
from charlm.data.windows.window import PADDING, Position, Shard, Window
from charlm.errors import CharlmError, ConfigError, GroupError
from charlm.model.cells import registry
from charlm.model.cells.minimal import MinGRU
from charlm.runs import session
from charlm.runs.experiment import training_windows
from charlm.runs.prepare import begin, resume
from charlm.runs.snapshot import save_snapshot
from charlm.training import process_group
from charlm.training.launcher import is_launched
from charlm.training.process_group import Group

HANG_SECONDS = 120  # Far more than any step of a test takes.
SETTINGS = [*SMALL, "training.batch_size=5", "training.clipnorm=2"]
STREAM = ["corpus.mode=stream", "training.partial_shuffle=true", "training.optimizer=muon"]
# Of the 120 records for training a batch of 7 leaves one, so that the second process has none.
RECORDS = [
    "corpus.mode=records",
    "training.batch_size=7",
    "training.accumulation=2",
    "model.direction=both",
    "model.ngrams=3",
    "training.temporal_regularization=1",
]
TASKS = {
    "complete": ["task.kind=complete", "training.batch_size=7"],
    "translate": ["task.kind=translate", "training.batch_size=7", "model.direction=both"],
    "classify": ["task.kind=classify", "training.batch_size=7", "task.pooling=last"],
    "tag": ["task.kind=tag", "training.batch_size=7", "model.direction=both"],
}
WORDS = [
    "corpus.mode=stream",
    "tokenizer.level=word",
    "model.adaptive_cutoffs=[9]",
    "model.initial_state=learned",
]
CONSTANT = ["training.schedule=constant"]
DROPOUT = ["model.output_dropout=0.3"]  # Draws random numbers in every process.
DROPOUT_STEPS = 150
SAVE_OFTEN = ["checkpoint.save_seconds=0.01"]
ENDLESS = [*SAVE_OFTEN, "training.timeout_seconds=5"]
STEPS = 20


def options(*overrides: str) -> list[str]:
    return [part for change in [*SETTINGS, *overrides] for part in ("--set", change)]


def train_arguments(text: Path, folder: Path, *overrides: str, steps: int) -> list[str]:
    """Return a command that trains on a text."""
    budget = ["--steps", str(steps), "--out", str(folder)]
    return ["train", "--config", "quickstart", str(text), *options(*overrides), *budget]


def train_alone(text: Path, folder: Path, *overrides: str, steps: int) -> None:
    changes = [*SETTINGS, f"corpus.text={text}", f"training.steps={steps}", *overrides]
    train_all(load_config("quickstart", changes), folder)


def launch_variables(rank: int, port: int) -> dict[str, str]:
    """Return the environment that torchrun gives to one of two processes, each with one thread."""
    variables = {
        "RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": 1,
    }
    return os.environ | {name: str(value) for name, value in variables.items()}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def saved_step(folder: Path) -> int:
    state = folder / "last/state.json"
    return json.loads(state.read_bytes())["step"] if state.is_file() else 0


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = json.loads((folder / "last/state.json").read_bytes())
    return load_file(folder / "last" / state["files"]["weights"]["file"])


def losses(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["training_loss_nats"], line["loss_nats"]) for line in lines]


# The last command ends as the program `charlm` does.
RUN_COMMANDS = """
import json, os, sys
from torch.distributed import TCPStore
from charlm.cli import main

# As with torchrun, the store outlives a command: the other process may already begin the next one.
is_first = os.environ["RANK"] == "0"
store = TCPStore(
    os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), None, is_first, wait_for_workers=False
)
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"

*commands, last = json.loads(sys.argv[1])
for command in commands:
    if status := main.run(command):
        sys.exit(f"{command}: status {status}")
sys.argv = ["charlm", *last]
main.main()
"""


@pytest.fixture(scope="module")
def trained_by_two(text_file, records_file, pairs_files, tmp_path_factory) -> Path:
    """A folder with the runs that two processes trained, all in one launch.

    `changing` was trained by one process for half of its steps, then by two. The training of
    `endless` ended because the second process stopped; `status` and `stderr-0` are of the first
    one. The workers of pytest-xdist share the folder, so that there is one launch in all.
    """
    temporary = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        temporary = temporary.parent
    folder = temporary / "trained-by-two"
    with FileLock(temporary / "trained-by-two.lock"):
        if not folder.is_dir():
            unfinished = temporary / "unfinished"
            train_by_two(unfinished, text_file, records_file, pairs_files)
            unfinished.rename(folder)
    return folder


def train_by_two(folder: Path, text: Path, records: Path, pairs: dict[str, Path]) -> None:
    train_alone(text, folder / "changing", *CONSTANT, steps=STEPS // 2)
    bf16 = "training.gradient_compression=bf16"
    commands = [
        train_arguments(text, folder / "stream", *STREAM, steps=STEPS),
        train_arguments(text, folder / "bf16", *STREAM, bf16, steps=STEPS),
        train_arguments(records, folder / "records", *RECORDS, steps=STEPS),
        train_arguments(text, folder / "words", *WORDS, steps=STEPS),
        *(train_arguments(pairs[kind], folder / kind, *TASKS[kind], steps=STEPS) for kind in TASKS),
        ["train", "--resume", str(folder / "changing"), "--steps", str(STEPS)],
        train_arguments(text, folder / "dropout", *DROPOUT, steps=DROPOUT_STEPS),
        train_arguments(text, folder / "endless", *ENDLESS, steps=1_000_000),
    ]
    with start_two(folder, "-c", RUN_COMMANDS, json.dumps(commands)) as (first, second):
        until = time.monotonic() + 5 * HANG_SECONDS
        while saved_step(folder / "endless") == 0:
            running = first.poll() is None and second.poll() is None
            assert time.monotonic() < until and running, (folder / "stderr-0").read_text()
            time.sleep(0.02)
        second.send_signal(signal.SIGSTOP)
        (folder / "status").write_text(str(first.wait(HANG_SECONDS)))


@contextmanager
def start_two(folder: Path, *command: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start a command in two processes, as torchrun does; kill them at the end.

    Each writes its standard error to the file `stderr-RANK` of a folder.
    """
    port = free_port()
    with ExitStack() as stack:
        processes = []
        for rank in range(2):
            process = subprocess.Popen(
                [sys.executable, *command],
                env=launch_variables(rank, port),
                stdout=subprocess.DEVNULL,
                stderr=stack.enter_context((folder / f"stderr-{rank}").open("wb")),
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        yield processes


@pytest.fixture(scope="module")
def stream_by_one(text_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "stream"
    train_alone(text_file, folder, *STREAM, steps=STEPS)
    return folder


def assert_nearly_same_training(found: Path, expected: Path) -> None:
    assert losses(found) == [pytest.approx(pair, rel=1e-5) for pair in losses(expected)]
    for name, tensor in weights(expected).items():
        assert torch.allclose(weights(found)[name], tensor, rtol=1e-4, atol=1e-5), name
    assert losses(expected)[-1][0] < losses(expected)[0][0]


def test_two_processes_train_a_stream_as_one_does(trained_by_two, stream_by_one):
    assert_nearly_same_training(trained_by_two / "stream", stream_by_one)


def test_two_processes_train_on_records_as_one_does(trained_by_two, records_file, tmp_path):
    train_alone(records_file, tmp_path / "one", *RECORDS, steps=STEPS)
    assert_nearly_same_training(trained_by_two / "records", tmp_path / "one")


@pytest.mark.parametrize("kind", TASKS)
def test_two_processes_train_a_task_as_one_does(kind, trained_by_two, pairs_files, tmp_path):
    train_alone(pairs_files[kind], tmp_path / "one", *TASKS[kind], steps=STEPS)
    assert_nearly_same_training(trained_by_two / kind, tmp_path / "one")


def test_two_processes_train_an_adaptive_softmax_and_initial_states_as_one_does(
    trained_by_two, text_file, tmp_path
):
    train_alone(text_file, tmp_path / "one", *WORDS, steps=STEPS)
    assert_nearly_same_training(trained_by_two / "words", tmp_path / "one")


def test_gradients_exchanged_in_bf16_train_about_as_well(trained_by_two, stream_by_one):
    assert losses(trained_by_two / "bf16")[-1] == pytest.approx(losses(stream_by_one)[-1], rel=0.02)
    assert losses(trained_by_two / "bf16") != losses(trained_by_two / "stream")


def test_a_run_continues_with_another_number_of_processes(trained_by_two, text_file, tmp_path):
    train_alone(text_file, tmp_path / "one", *CONSTANT, steps=STEPS * 3 // 2)
    assert saved_step(trained_by_two / "changing") == STEPS
    experiment = resume(trained_by_two / "changing", budget={"steps": STEPS * 3 // 2})
    for _ in session.run(experiment):
        pass
    states = [
        json.loads((folder / "last/state.json").read_bytes())
        for folder in (trained_by_two / "changing", tmp_path / "one")
    ]
    assert states[0]["position"] == states[1]["position"]  # Each window of an epoch once.
    for name, tensor in weights(tmp_path / "one").items():
        found = weights(trained_by_two / "changing")[name]
        assert torch.allclose(found, tensor, rtol=1e-3, atol=1e-4), name


def test_a_killed_process_is_started_again_and_the_result_is_the_same(
    trained_by_two, text_file, tmp_path
):
    folder = tmp_path / "killed"
    command = train_arguments(text_file, folder, *DROPOUT, *SAVE_OFTEN, steps=DROPOUT_STEPS)
    with subprocess.Popen(
        [sys.executable, "-m", "charlm", *command, "--processes", "2"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as training:
        until = time.monotonic() + HANG_SECONDS
        while training.poll() is None and time.monotonic() < until:
            if 0 < saved_step(folder) < 0.75 * DROPOUT_STEPS:
                children = ["pgrep", "-P", str(training.pid)]
                found = subprocess.run(children, capture_output=True, text=True)
                os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
                break
            time.sleep(0.01)
        _, err = training.communicate(timeout=HANG_SECONDS)
        assert training.returncode == 0
    # The killed one, or the one that misses it: whichever torch's launcher sees first.
    assert re.search(rb"failed \(exitcode: (-9|1)\)", err)
    for name, tensor in weights(trained_by_two / "dropout").items():
        assert torch.equal(weights(folder)[name], tensor), name


@pytest.mark.parametrize(("mode", "batch_size"), [("stream", 5), ("records", 4)])
def test_each_token_of_an_epoch_is_read_once_while_the_number_of_processes_changes(
    mode, batch_size, tmp_path
):
    sizes = [*range(1, 10)] * 9
    letters = "".join(chr(0x4E00 + number) for number in range(sum(sizes)))  # All are different.
    lines = [letters[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    text = ("" if mode == "stream" else "\n").join(lines)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    overrides = [
        f"corpus.mode={mode}",
        f"training.batch_size={batch_size}",
        "training.window=4",
        "training.partial_shuffle=true",
        "corpus.valid_share=0",
    ]
    alone = begin(small_config(tmp_path / "text.txt", *overrides), tmp_path / "run")
    alone.lock.release()
    windows_of_one = training_windows(alone)
    position = Position()
    counts = defaultdict[int, Counter[int]](Counter)  # By epoch.
    for processes, steps in ((1, 7), (2, 9), (3, 30), (1, 60)):
        members = [
            resume(tmp_path / "run", group=Group(rank, processes)) for rank in range(processes)
        ]
        windows_of_members = [training_windows(member) for member in members]
        for _ in range(steps):
            windows = [next(member) for member in windows_of_members]
            read = count_targets(windows)
            assert read == count_targets([next(windows_of_one)])
            counts[position.epoch] += read
            position = windows[0].next
        members[0].state.position = position
        save_snapshot(members[0], "last")
        members[0].lock.release()
    assert position.epoch >= 2
    most_left_out = 0 if mode == "records" else batch_size * 4  # Less than one window a stream.
    for epoch in range(position.epoch):
        del counts[epoch][EOS]
        assert set(counts[epoch].values()) == {1}
        assert len(letters) - most_left_out <= len(counts[epoch]) <= len(letters)


def count_targets(windows: Sequence[Window]) -> Counter[int]:
    targets = torch.cat([window.targets.flatten() for window in windows])
    return Counter(targets[targets != PADDING].tolist())


def test_a_process_that_does_not_answer_in_time_is_reported_in_one_line(trained_by_two):
    assert (trained_by_two / "status").read_text() == "1"
    err = (trained_by_two / "stderr-0").read_text()
    *_, kept, message = err.splitlines()
    assert re.fullmatch(r"the last good checkpoint is kept: .*/endless/last", kept)
    assert re.fullmatch(
        r"charlm: process 0 of 2: another process has ended or has not answered in time: "
        r".*5000 ?ms.*; look for its own message, then continue with --resume",
        message,
    )
    assert "Traceback" not in err


ABORT_AT_EXIT = """
import atexit, os, sys
import torch.distributed as dist
from charlm.cli import main

atexit.register(os.abort)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
sys.argv = ["charlm", "inspect", "nowhere"]
main.main()
"""


def test_a_process_that_fails_in_a_group_exits_with_its_status_even_if_torch_aborts_at_exit():
    done = subprocess.run([sys.executable, "-c", ABORT_AT_EXIT], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("charlm: nowhere")


@pytest.mark.slow
def test_a_run_continues_with_fewer_machines_when_one_is_lost(text_file, tmp_path):
    folder = tmp_path / "run"
    rendezvous = {
        "--nnodes": "1:2",
        "--nproc-per-node": "1",
        "--max-restarts": "3",
        "--rdzv-id": "test",
        "--rdzv-backend": "c10d",
        "--rdzv-endpoint": f"localhost:{free_port()}",
        "--rdzv-conf": "last_call_timeout=10,keep_alive_interval=1",
    }
    arguments = [part for option in rendezvous.items() for part in option]
    command = train_arguments(text_file, folder, "checkpoint.save_seconds=0.2", steps=3000)
    agent = [sys.executable, "-m", "torch.distributed.run", *arguments, "-m", "charlm", *command]
    with ExitStack() as stack:
        agents = []
        for _ in range(2):
            process = subprocess.Popen(agent, stderr=subprocess.PIPE, text=True)
            agents.append(stack.enter_context(process))
            stack.callback(process.kill)
            time.sleep(1)  # The first agent becomes the one that holds the store.
        until = time.monotonic() + HANG_SECONDS
        while saved_step(folder) == 0:
            assert time.monotonic() < until
            time.sleep(0.02)
        children = ["pgrep", "-P", str(agents[1].pid)]
        worker = subprocess.run(children, capture_output=True, text=True, check=True).stdout
        for pid in (agents[1].pid, int(worker)):
            os.kill(pid, signal.SIGKILL)
        _, err = agents[0].communicate(timeout=HANG_SECONDS)
    assert agents[0].returncode == 0 and "process 0 of 2: another process has ended" in err
    assert saved_step(folder) == 3000


def test_the_columns_of_all_shards_are_the_batch_and_the_first_shards_have_one_more():
    for count in range(9):
        columns = [list(range(count))[Shard(rank, 4).columns(count)] for rank in range(4)]
        assert [column for shard in columns for column in shard] == list(range(count)), count
        sizes = [len(shard) for shard in columns]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1, count


def random_ids(size: int, *, low: int, eos_every: int) -> np.ndarray:
    ids = np.random.default_rng(1).integers(low, 9, size=size)
    ids[::eos_every] = EOS
    return ids


def test_the_windows_of_all_processes_are_those_of_one():
    ids = random_ids(403, low=2, eos_every=7)

    def readers(shard: Shard) -> list[Iterator[Window]]:
        return [
            stream_windows(
                ids,
                batch_size=5,
                window=8,
                start=Position(),
                options=StreamOptions(vary=True, shuffle=True, restart_windows=2),
                shard=shard,
            ),
            record_windows(ids, batch_size=4, window=3, seed=1, start=Position(), shard=shard),
        ]

    for whole, *shards in zip(
        readers(Shard()), *(readers(Shard(rank, 3)) for rank in range(3)), strict=True
    ):
        for _ in range(60):
            window, parts = next(whole), [next(shard) for shard in shards]
            targets = torch.cat([without_padding_columns(part.targets) for part in parts], dim=1)
            assert torch.equal(targets, without_padding_columns(window.targets))
            assert {part.global_batch_size for part in parts} == {window.global_batch_size}
            assert {part.next for part in parts} == {window.next}


def without_padding_columns(targets: torch.Tensor) -> torch.Tensor:
    return targets[:, (targets != PADDING).any(dim=0)]


def test_all_processes_together_score_each_token_once():
    ids = random_ids(101, low=1, eos_every=5)
    for read in (
        lambda shard: scoring_windows(ids, streams=3, warm_up=4, shard=shard),
        lambda shard: scoring_record_windows(ids, batch_size=4, shard=shard),
    ):
        scored = sum(window.tokens for rank in range(5) for window in read(Shard(rank, 5)))
        assert scored == sum(window.tokens for window in read(Shard()))


def test_more_processes_than_streams_are_refused_before_there_is_a_folder(text_file, tmp_path):
    with pytest.raises(ConfigError, match=r"training\.batch_size: .*at least 9.*got 4"):
        begin(small_config(text_file), tmp_path / "run", group=Group(size=9))
    assert not (tmp_path / "run").exists()


def test_under_torchrun_a_folder_must_be_named_and_processes_must_not(
    monkeypatch, text_file, capsys
):
    for name, value in launch_variables(rank=0, port=1).items():
        monkeypatch.setenv(name, value)
    assert is_launched()
    assert charlm(["train", str(text_file)]) == 2
    assert "--out" in capsys.readouterr().err
    assert charlm(["train", str(text_file), "--out", "x", "--processes", "2"]) == 2
    assert "--processes: torchrun" in capsys.readouterr().err


def test_under_torchrun_python_refuses_to_train_the_same_run_in_each_process(
    monkeypatch, text_file, tmp_path
):
    for name, value in launch_variables(rank=0, port=1).items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "run"
    for call in (
        lambda: package.train(small_config(text_file), out=out),
        lambda: package.train_seeds(small_config(text_file), [1, 2], out=out),
        lambda: package.resume(out),
    ):
        with pytest.raises(GroupError, match=r"got WORLD_SIZE=2; start the command line: torchrun"):
            call()
    assert not out.exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(CharlmError, match="no such run folder"):
        package.resume(out)


def test_a_cell_of_another_program_is_refused_before_processes_start(
    monkeypatch, text_file, tmp_path, capsys
):
    monkeypatch.setattr(cell_section, "_registered_kinds", set())
    monkeypatch.setattr(registry, "_MAKERS", dict(registry._MAKERS))
    monkeypatch.setattr(process_group, "launch", pytest.fail)
    package.register_cell("mine", MinGRU)
    options = [f"--set={each}" for each in (*SMALL, "model.cell=mine")]
    run = tmp_path / "run"
    arguments = ["train", str(text_file), *options, "--steps=9", f"--out={run}", "--processes=2"]
    assert charlm(arguments) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "do not know the cell mine" in line
    assert line.endswith(f"train --resume {run}")


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:1", 1)])
def test_a_process_with_a_gpu_selects_it_and_uses_nccl(device, number, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **_: calls.append(backend)
    )
    store = torch.distributed.HashStore()
    store.set(f"here/{1 - number}", "yes")
    Group(number, 2, store=store).connect(torch.device(device), timeout_seconds=1)
    assert calls == [number, "cpu:gloo,cuda:nccl"]


def test_the_end_of_another_process_is_reported_in_one_line():
    group = Group(1, 2)
    group._connected = True
    line = r"process 1 of 2: .*: \[gloo/pair.cc\] Connection closed by peer; look .* --resume$"
    with pytest.raises(GroupError, match=line), group.lost_process_reported():
        raise RuntimeError("[gloo/pair.cc] Connection closed by peer\nmore")
    with pytest.raises(RuntimeError, match="shapes"), group.lost_process_reported():
        raise RuntimeError("shapes do not fit")
