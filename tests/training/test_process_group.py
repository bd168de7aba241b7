"""Processes that train together: the same numbers as one, whatever their number, and after one of them is killed."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from conftest import SMALL, small_config, train_all
from safetensors.torch import load_file

from charlm.cli.main import run as charlm
from charlm.config.load import load_config
from charlm.data.tokenizer import EOS
from charlm.data.windows import (
    PADDING,
    Position,
    Shard,
    record_windows,
    scoring_record_windows,
    scoring_windows,
    stream_windows,
)
from charlm.errors import ConfigError, GroupError
from charlm.runs.experiment import training_windows
from charlm.runs.prepare import begin, resume
from charlm.runs.snapshot import save_snapshot
from charlm.training.process_group import Group, is_launched

SETTINGS = [*SMALL, "training.batch_size=5", "training.clipnorm=2"]


def command(*arguments: str, processes: int = 2) -> list[str]:
    return [sys.executable, "-m", "charlm", "train", *arguments, "--processes", str(processes)]


def train(text: Path, folder: Path, *overrides: str, steps: int = 40, processes: int = 2) -> None:
    changes = [part for change in [*SETTINGS, *overrides] for part in ("--set", change)]
    arguments = [
        "--config",
        "quickstart",
        str(text),
        *changes,
        "--steps",
        str(steps),
        "--out",
        str(folder),
    ]
    subprocess.run(
        command(*arguments, processes=processes), check=True, capture_output=True, timeout=300
    )


def train_alone(text: Path, folder: Path, *overrides: str, steps: int = 40) -> None:
    changes = [*SETTINGS, f"corpus.text={text}", f"training.steps={steps}", *overrides]
    train_all(load_config("quickstart", changes), folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = json.loads((folder / "last/state.json").read_bytes())
    return load_file(folder / "last" / state["files"]["weights"]["file"])


def losses(folder: Path) -> list[tuple[float, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["training_loss_nats"], line["loss_nats"]) for line in lines]


def assert_equal(found: Path, expected: Path) -> None:
    assert losses(found) == [pytest.approx(pair, rel=1e-5) for pair in losses(expected)]
    for name, tensor in weights(expected).items():
        assert torch.allclose(weights(found)[name], tensor, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize(
    "mode,overrides",
    [
        ("stream", ["training.partial_shuffle=true", "training.optimizer=muon"]),
        (
            "records",
            [
                "training.accumulation=2",
                "model.direction=both",
                "training.temporal_regularization=1",
            ],
        ),
        (
            "stream",
            ["tokenizer.level=word", "model.adaptive_cutoffs=[9]", "model.initial_state=learned"],
        ),
    ],
    ids=["stream", "records", "words"],
)
def test_two_processes_do_what_one_does(mode, overrides, text_file, records_file, tmp_path):
    text = text_file if mode == "stream" else records_file
    overrides = [*overrides, f"corpus.mode={mode}"]
    train_alone(text, tmp_path / "one", *overrides)
    train(text, tmp_path / "two", *overrides)
    assert_equal(tmp_path / "two", tmp_path / "one")
    assert losses(tmp_path / "one")[-1][0] < losses(tmp_path / "one")[0][0]


def test_bf16_gradients_train_about_as_well(text_file, tmp_path):
    train_alone(text_file, tmp_path / "one")
    train(text_file, tmp_path / "two", "training.gradient_compression=bf16")
    assert losses(tmp_path / "two")[-1] == pytest.approx(losses(tmp_path / "one")[-1], rel=0.02)


def test_a_run_goes_on_with_another_number_of_processes(text_file, tmp_path):
    train_alone(text_file, tmp_path / "one", "training.schedule=constant", steps=60)
    folder = tmp_path / "changing"
    train(text_file, folder, "training.schedule=constant", steps=20, processes=1)
    positions = []
    for steps, processes in ((40, 2), (60, 1)):
        resumed = command("--resume", str(folder), "--steps", str(steps), processes=processes)
        subprocess.run(resumed, check=True, capture_output=True, timeout=300)
        positions.append(json.loads((folder / "last/state.json").read_bytes())["position"])
    whole = json.loads((tmp_path / "one/last/state.json").read_bytes())
    assert positions[-1] == whole["position"]  # Each window of an epoch once.
    for name, tensor in weights(tmp_path / "one").items():
        assert torch.allclose(weights(folder)[name], tensor, rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("batch_size", [4, 5])
@pytest.mark.parametrize("mode", ["stream", "records"])
def test_each_token_of_an_epoch_is_read_once_by_one_process_then_two_then_three_then_one(
    mode, batch_size, tmp_path
):
    sizes = [*range(1, 10)] * 9
    letters = "".join(
        chr(0x4E00 + number) for number in range(sum(sizes))
    )  # No two tokens are alike.
    lines = [letters[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    (tmp_path / "text.txt").write_text(
        ("" if mode == "stream" else "\n").join(lines), encoding="utf-8"
    )
    overrides = [
        f"corpus.mode={mode}",
        f"training.batch_size={batch_size}",
        "training.window=4",
        "training.partial_shuffle=true",
        "corpus.valid_share=0",
    ]
    alone = begin(small_config(tmp_path / "text.txt", *overrides), tmp_path / "run")
    alone.lock.release()
    whole, position, read = (
        training_windows(alone),
        Position(),
        defaultdict[int, Counter[int]](Counter),
    )
    for processes, steps in ((1, 7), (2, 9), (3, 30), (1, 60)):
        members = [
            resume(tmp_path / "run", group=Group(number, processes)) for number in range(processes)
        ]
        parts = [training_windows(member) for member in members]
        for _ in range(steps):
            windows = [next(part) for part in parts]
            found = Counter(torch.cat([window.targets.flatten() for window in windows]).tolist())
            del found[PADDING]
            wanted = next(whole).targets
            assert found == Counter(wanted[wanted != PADDING].tolist())
            read[position.epoch] += found
            position = windows[0].next
        members[0].state.position = position
        save_snapshot(members[0], "last")
        members[0].lock.release()
    assert position.epoch >= 2
    left_out = 0 if mode == "records" else batch_size * 4  # Less than one window a stream.
    for epoch in range(position.epoch):
        del read[epoch][EOS]
        assert set(read[epoch].values()) == {1} and len(letters) - left_out <= len(
            read[epoch]
        ) <= len(letters)


@contextmanager
def two_in_step(text: Path, folder: Path, *overrides: str) -> Iterator[list[subprocess.Popen]]:
    """Yield two processes that train together, with no launcher over them, as soon as one step is saved."""
    port = free_port()
    changes = [
        part
        for change in [*SETTINGS, "checkpoint.save_seconds=0.01", *overrides]
        for part in ("--set", change)
    ]
    arguments = [
        "train",
        "--config",
        "quickstart",
        str(text),
        *changes,
        "--steps",
        "1000000",
        "--out",
        str(folder),
    ]
    with ExitStack() as stack:
        started = []
        for number in range(2):
            place = {
                "RANK": number,
                "WORLD_SIZE": 2,
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
            }
            environment = os.environ | {name: str(value) for name, value in place.items()}
            started.append(
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-m", "charlm", *arguments],
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE,
                        text=True,
                    )
                )
            )
            stack.callback(started[-1].kill)
        until = time.monotonic() + 120
        while saved_step(folder) == 0:
            assert time.monotonic() < until and all(process.poll() is None for process in started)
            time.sleep(0.02)
        yield started


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def saved_step(folder: Path) -> int:
    state = folder / "last/state.json"
    return json.loads(state.read_bytes())["step"] if state.is_file() else 0


@pytest.mark.slow
def test_a_run_goes_on_with_fewer_machines_when_one_is_lost(text_file, tmp_path):
    changes = [
        part for change in [*SETTINGS, "checkpoint.save_seconds=0.2"] for part in ("--set", change)
    ]
    agent = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "1:2",
        "--nproc-per-node",
        "1",
        "--max-restarts",
        "3",
        "--rdzv-id",
        "test",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"localhost:{free_port()}",
        "--rdzv-conf",
        "last_call_timeout=10,keep_alive_interval=1",
        "-m",
        "charlm",
        "train",
        "--config",
        "quickstart",
        str(text_file),
        *changes,
        "--steps",
        "3000",
        "--out",
        str(tmp_path / "run"),
    ]
    with ExitStack() as stack:
        agents = []
        for _ in range(2):
            agents.append(
                stack.enter_context(subprocess.Popen(agent, stderr=subprocess.PIPE, text=True))
            )
            stack.callback(agents[-1].kill)
            time.sleep(1)  # The first one keeps what they tell each other.
        until = time.monotonic() + 120
        while saved_step(tmp_path / "run") == 0:
            assert time.monotonic() < until
            time.sleep(0.02)
        worker = subprocess.run(
            ["pgrep", "-P", str(agents[1].pid)], capture_output=True, text=True, check=True
        ).stdout
        for process in (agents[1].pid, int(worker)):
            os.kill(process, signal.SIGKILL)
        _, err = agents[0].communicate(timeout=120)
    assert agents[0].returncode == 0 and "process 0 of 2: another process has ended" in err
    assert saved_step(tmp_path / "run") == 3000


def test_a_process_that_does_not_answer_is_told_in_one_line_when_its_time_is_over(
    text_file, tmp_path
):
    with two_in_step(text_file, tmp_path / "run", "training.timeout_seconds=5") as (first, second):
        second.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        _, err = first.communicate(timeout=60)
        assert 3 < time.monotonic() - began < 30  # Five seconds, and the end of a process.
    assert first.returncode == 1
    *_, kept, told = err.splitlines()
    assert kept == f"the last good checkpoint is kept: {tmp_path}/run/last"
    assert re.fullmatch(
        r"charlm: process 0 of 2: another process has ended or has not answered in time: .*5000 ?ms.*; look "
        "for its own message, then continue with --resume",
        told,
    )
    assert "Traceback" not in err


ABORTED_AT_ITS_END = """
import atexit, os, sys
import torch.distributed as dist
from charlm.cli import main

atexit.register(os.abort)
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
sys.argv = ["charlm", "inspect", "nowhere"]
main.main()
"""


def test_a_process_whose_group_is_not_left_in_order_ends_with_its_status_whatever_torch_does_at_its_end():
    done = subprocess.run(
        [sys.executable, "-c", ABORTED_AT_ITS_END], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.startswith("charlm: nowhere")


def test_a_killed_process_is_started_again_and_nothing_changes(text_file, tmp_path):
    overrides = [
        "model.output_dropout=0.3",
        "checkpoint.save_seconds=0.05",
        "checkpoint.save_share=null",
    ]
    train(text_file, tmp_path / "undisturbed", *overrides, steps=800)
    folder = tmp_path / "killed"
    changes = [part for change in [*SETTINGS, *overrides] for part in ("--set", change)]
    arguments = [
        "--config",
        "quickstart",
        str(text_file),
        *changes,
        "--steps",
        "800",
        "--out",
        str(folder),
    ]
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as training:
        until = time.monotonic() + 120
        while training.poll() is None and time.monotonic() < until:
            if (folder / "last/state.json").is_file():
                step = json.loads((folder / "last/state.json").read_bytes())["step"]
                if 0 < step < 600:
                    found = subprocess.run(
                        ["pgrep", "-P", str(training.pid)], capture_output=True, text=True
                    )
                    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
                    break
            time.sleep(0.02)
        assert training.wait(timeout=120) == 0
        assert training.stderr is not None
        # Of the killed one, or of the one that misses it: whichever torch's launcher sees first.
        assert re.search(rb"failed \(exitcode: (-9|1)\)", training.stderr.read())
    for name, tensor in weights(tmp_path / "undisturbed").items():
        assert torch.equal(weights(folder)[name], tensor), name


def test_shares_make_up_the_whole_and_the_first_have_more():
    for count in range(9):
        columns = [list(range(count))[Shard(number, 4).columns(count)] for number in range(4)]
        assert [column for part in columns for column in part] == list(range(count))
        assert max(map(len, columns)) - min(map(len, columns)) <= 1 and columns[0] == max(
            columns, key=len
        )


def test_the_windows_of_all_processes_are_those_of_one():
    ids = torch.randint(2, 9, (403,), generator=torch.Generator().manual_seed(1)).numpy()
    ids[::7] = 0

    def readers(shard):
        yield stream_windows(
            ids, batch_size=5, window=8, start=Position(), vary=True, shuffle=True, shard=shard
        )
        yield record_windows(ids, batch_size=4, window=3, seed=1, start=Position(), shard=shard)

    for whole, *parts in zip(
        readers(Shard()), *(readers(Shard(number, 3)) for number in range(3)), strict=True
    ):
        for _ in range(60):
            window, own = next(whole), [next(part) for part in parts]
            targets = torch.cat(
                [part.targets[:, (part.targets != -100).any(dim=0)] for part in own], dim=1
            )
            wanted = window.targets[:, (window.targets != -100).any(dim=0)]
            assert torch.equal(targets, wanted)
            assert {part.global_batch_size for part in own} == {window.global_batch_size} and {
                part.next for part in own
            } == {window.next}


def test_the_processes_score_each_token_once():
    ids = torch.randint(1, 9, (101,), generator=torch.Generator().manual_seed(1)).numpy()
    ids[::5] = 0
    for read in (
        lambda shard: scoring_windows(ids, streams=3, warm_up=4, shard=shard),
        lambda shard: scoring_record_windows(ids, batch_size=4, shard=shard),
    ):
        found = sum(window.tokens for number in range(5) for window in read(Shard(number, 5)))
        assert found == sum(window.tokens for window in read(Shard()))


def test_more_processes_than_streams_are_refused_before_there_is_a_folder(text_file, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size: must be at least 9, .*, got 4"):
        begin(small_config(text_file), tmp_path / "run", group=Group(size=9))
    assert not (tmp_path / "run").exists()


def test_under_torchrun_a_folder_must_be_named_and_its_number_of_processes_holds(
    monkeypatch, text_file, capsys
):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert is_launched()
    assert charlm(["train", str(text_file)]) == 2
    assert "--out" in capsys.readouterr().err
    assert charlm(["train", str(text_file), "--out", "x", "--processes", "2"]) == 2
    assert "torchrun says how many" in capsys.readouterr().err


def test_another_process_that_is_gone_is_told_in_one_line():
    group = Group(1, 2)
    group._connected = True
    told = r"process 1 of 2: another process has ended.*: \[gloo/pair.cc\] Connection closed by peer; look"
    with pytest.raises(GroupError, match=told), group.lost_process_reported():
        raise RuntimeError("[gloo/pair.cc] Connection closed by peer\nmore")
    with pytest.raises(RuntimeError, match="shapes"), group.lost_process_reported():
        raise RuntimeError("shapes do not fit")
