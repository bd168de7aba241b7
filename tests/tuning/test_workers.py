"""Several workers at one search: who tries what, what becomes of a lost one's trial, where the best one's run is."""

import csv
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
import pytest

from charlm.config.load import load_config
from charlm.errors import CharlmError, CheckpointError, OptionError, StorageError
from charlm.storage.locks import ProcessLock
from charlm.tuning import results, storage, workers
from charlm.tuning import search as tuning
from charlm.tuning.search import tune

RATE = "training.learning_rate=1e-3..1e-1"


def scoring(monkeypatch, *losses):
    """Let every trial finish at once, the first with the first loss."""

    def report(trial, experiment, is_over):
        trial.report(losses[trial.number], 1000)
        return "finished"

    monkeypatch.setattr(tuning, "_train", report)


def outcomes(found) -> list[str]:
    return [trial.outcome for trial in sorted(found.trials, key=lambda trial: trial.number)]


@contextmanager
def a_worker_that_hangs(config, folder: Path, **options) -> Iterator[int]:
    """Begin a search in a process of its own, which hangs in the midst of its first trial; return its number."""
    child = os.fork()
    if child == 0:
        try:
            asked = iter(range(1000))

            def hang() -> (
                bool
            ):  # Asked before the trial and after each step; the fourth time, a loss is reported.
                if next(asked) == 4:
                    (folder / "hangs").touch()
                    time.sleep(600)
                return False

            tune(config, [RATE], out=folder, trials=3, stop=hang, **options)
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        os._exit(1)
    deadline = time.monotonic() + 120
    try:
        while not (folder / "hangs").is_file():
            assert time.monotonic() < deadline and os.waitpid(child, os.WNOHANG) == (0, 0)
            time.sleep(0.02)
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def places(request, tmp_path):
    """Return the folders of two workers, and where they meet."""
    if request.param == "SQLite":
        return tmp_path / "tuned", tmp_path / "tuned", {}
    url = request.getfixturevalue("server").url()
    return (
        tmp_path / "one",
        tmp_path / "other",
        {"storage": url, "study": request.node.name.replace("[", ".")[:-1]},
    )


def test_none_of_the_trials_asked_for_is_lost_when_one_of_two_workers_is_killed(
    config, places, monkeypatch
):
    folder, other, options = places
    waited = []

    def kill(running: int) -> None:
        waited.append(running)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        # So that this test need not wait a minute; until here it takes no living one for lost, however slow.
        monkeypatch.setattr(workers, "LOST_SECONDS", 0.0)

    told, deadline = [], time.monotonic() + 120
    with a_worker_that_hangs(config, folder, **options) as child:
        found = tune(
            config,
            [RATE],
            out=other,
            waiting=kill,
            trials=3,
            stop=lambda: time.monotonic() > deadline,
            report=lambda trial, best: told.append(trial.number),
            **options,
        )
    assert waited == [1]
    assert outcomes(found) == ["failed", "finished", "finished", "finished"] and told == [1, 2, 3]
    tried = {trial.number: trial.values for trial in found.trials}
    assert tried[3] == tried[0]
    assert len({str(values) for values in tried.values()}) == 3
    rows = list(csv.DictReader((other / "trials.csv").read_text().splitlines()))
    assert [row["outcome"] for row in rows] == ["finished", "finished", "finished", "failed"]
    assert rows[-1]["host"] == socket.gethostname() and rows[-1]["folder"] == str(folder)
    kept = {path.parents[1].name for path in (other / "trials").glob("*/*/*.safetensors")}
    assert kept == {str(found.best.number)} | ({"0"} if other == folder else set()) - {"0"}


def test_a_second_worker_joins_in_and_neither_tries_what_the_other_does(
    config, in_memory, tmp_path, monkeypatch
):
    met = []

    def meet(trial, experiment, is_over):
        trial.report(1.0, 1000)
        if (
            trial.number == 0
        ):  # While this one is running, another worker tries all that is left, and then waits.
            met.append(
                tuning.resume(
                    tmp_path / "tuned", trials=5, waiting=met.append, stop=lambda: len(met) > 0
                )
            )
        return "finished"

    monkeypatch.setattr(tuning, "_train", meet)
    found = tune(config, ["model.hidden_size=8,16,24"], out=tmp_path / "tuned", trials=5)
    assert met[0] == 1 and met[1].running == 1 and met[1].ended == 2
    assert sorted(trial.values["model.hidden_size"] for trial in found.trials) == [8, 16, 24]
    assert found.exhausted


def test_a_budget_is_the_whole_search_s(config, in_memory, tmp_path, monkeypatch):
    seen = []

    def meet(trial, experiment, is_over):
        trial.report(1.0, 1000)
        if trial.number == 0:
            seen.append(
                tuning.resume(tmp_path / "tuned", waiting=seen.append, stop=lambda: len(seen) > 0)
            )
        return "finished"

    monkeypatch.setattr(tuning, "_train", meet)
    assert outcomes(tune(config, [RATE], out=tmp_path / "tuned", trials=2)) == [
        "finished",
        "finished",
    ]
    assert seen[0] == 1 and [trial.outcome for trial in seen[1].trials] == ["finished", "running"]


def test_seconds_in_which_two_trials_ran_are_counted_once():
    assert results._spent([(0.0, 4.0), (10.0, 11.0), (1.0, 3.0), (2.0, 6.0)]) == 7.0


def test_a_worker_that_was_taken_for_lost_leaves_its_trial_to_the_others(
    config, in_memory, tmp_path, monkeypatch
):
    def lose(trial, experiment, is_over):
        if trial.number == 0:
            trial.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr(tuning, "_train", lose)
    assert outcomes(tune(config, [RATE], out=tmp_path / "tuned", trials=2)) == [
        "failed",
        "finished",
        "finished",
    ]


def test_values_that_kill_their_worker_again_and_again_are_given_up(
    config, in_memory, tmp_path, monkeypatch
):
    def crash(trial, experiment, is_over):
        if experiment.config.model.hidden_size == (16,):
            raise RuntimeError
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr(tuning, "_train", crash)
    for _ in range(tuning._LOSSES):
        with pytest.raises(RuntimeError):
            tune(config, ["model.hidden_size=8,16"], out=tmp_path / "tuned", trials=2)
    found = tune(config, ["model.hidden_size=8,16"], out=tmp_path / "tuned", trials=2)
    assert outcomes(found) == ["failed"] * tuning._LOSSES + ["finished"] and found.exhausted


def test_a_lock_is_waited_for_and_told_from_one_that_nobody_holds(tmp_path):
    lock, other = ProcessLock(tmp_path / "lock"), ProcessLock(tmp_path / "lock")
    assert not lock.is_held()
    lock.acquire(error_type=CheckpointError, remedy="wait")
    assert lock.is_held() and other.is_held()
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="is at work in this folder; wait"):
        other.acquire(error_type=CheckpointError, remedy="wait", wait_seconds=0.1)
    assert time.monotonic() - began >= 0.1
    lock.release()
    assert not other.is_held()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5433/data", "postgresql://me@host:5433/data"),
        ("postgresql+psycopg://host/data", "postgresql://host/data"),
        (
            "postgresql://me@/data?host=/tmp&password=secret&sslpassword=secret",
            "postgresql://me@/data?host=%2Ftmp",
        ),
    ],
)
def test_a_url_is_shown_and_kept_without_its_password(url, shown):
    assert storage.without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "sqlite:///secret",
        "mysql://a:secret@h/d",
        "postgresql://a:secret@h:x/d",
        "postgresql://a:secret@h",
        "postgresql://a:secret@h/d\0",
    ],
)
def test_what_is_no_postgresql_database_is_refused_and_not_repeated(config, tmp_path, url):
    with pytest.raises(OptionError, match=r"^storage: must be a PostgreSQL database") as error:
        tune(config, [RATE], out=tmp_path / "tuned", trials=1, storage=url)
    assert "secret" not in str(error.value) and not (tmp_path / "tuned").exists()


def test_a_database_that_cannot_be_reached_is_one_line_and_nothing_is_made(config, tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError) as error:
        tune(
            config,
            [RATE],
            out=tmp_path / "tuned",
            trials=1,
            storage="postgresql://me:sec%2Fret@127.0.0.1:1/data",
        )
    line = str(error.value)
    assert (
        line.startswith("postgresql://me@127.0.0.1:1/data: cannot be used: ")
        and "is it running" in line
    )
    assert (
        "\n" not in line
        and "sec" not in line.removeprefix("postgresql://me@127.0.0.1:1").split("(--storage")[0]
    )
    assert not (tmp_path / "tuned").exists()


def test_without_the_driver_it_says_how_to_get_it(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(CharlmError, match=r"pip install 'charlm\[tune-postgresql\]'"):
        tune(config, [RATE], out=tmp_path / "tuned", trials=1, storage="postgresql://me@host/data")


def test_a_search_in_the_folder_and_one_in_a_database_are_kept_apart(
    config, in_memory, tmp_path, monkeypatch
):
    scoring(monkeypatch, 1.0)
    tune(config, [RATE], out=tmp_path / "tuned", trials=1)
    with pytest.raises(CheckpointError, match=r"keeps its search in study.db; leave --storage out"):
        tuning.resume(tmp_path / "tuned", storage="postgresql://me@host/data")


def test_the_best_run_in_another_worker_s_folder_is_told_and_its_settings_are_here(
    config, server, tmp_path, monkeypatch
):
    scoring(monkeypatch, 1.0, 2.0, 3.0)
    options = {"storage": server.url(), "study": "elsewhere"}
    one = tune(config, [RATE], out=tmp_path / "one", trials=1, **options)
    assert one.best_host == "" and one.use == f"charlm sample {tmp_path / 'one/trials/0'}"
    (tmp_path / "copy.txt").write_bytes(Path(config.corpus.text[0]).read_bytes())
    elsewhere = config.model_copy(
        update={"corpus": config.corpus.model_copy(update={"text": (f"{tmp_path}/copy.txt",)})}
    )
    found = tune(elsewhere, [RATE], out=tmp_path / "other", trials=3, **options)
    assert found.best.number == 0 and found.best_host == socket.gethostname()
    assert found.use == f"on {socket.gethostname()}: charlm sample {tmp_path / 'one/trials/0'}"
    assert f"# {found.use}\n" in (tmp_path / "other/best.yaml").read_text()
    settings = load_config(tmp_path / "other/best.yaml")
    assert settings.training.learning_rate == found.best.values["training.learning_rate"]
    assert settings.corpus.text == (f"{tmp_path}/copy.txt",)
    kept = {path.parents[1] for path in tmp_path.glob("*/trials/*/*/*.safetensors")}
    assert kept == {tmp_path / "one/trials/0"}


def test_one_database_holds_several_searches_and_no_folder_its_password(
    config, server, tmp_path, monkeypatch
):
    scoring(monkeypatch, 1.0, 2.0, 3.0)
    for name, search in (("a", RATE), ("b", "training.weight_decay=0..1")):
        found = tune(
            config, [search], out=tmp_path / name, trials=2, storage=server.url(), study=name
        )
        assert outcomes(found) == ["finished", "finished"]
    with pytest.raises(
        CheckpointError,
        match=r"a holds another search: what is searched changed since; give another --s",
    ):
        tune(
            config,
            ["model.hidden_size=8,16"],
            out=tmp_path / "c",
            trials=2,
            storage=server.url(),
            study="a",
        )
    assert not (tmp_path / "c").exists()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sesame" not in path.read_bytes(), path
    with pytest.raises(StorageError) as error:
        tuning.resume(tmp_path / "a")
    assert "--storage, else PGPASSWORD" in str(error.value) and "sesame" not in str(error.value)
    with pytest.raises(StorageError) as error:
        tuning.resume(tmp_path / "a", storage=server.url("wrong"))
    assert "wrong" not in str(error.value) and "\n" not in str(error.value)
    monkeypatch.setenv("PGPASSWORD", "open {sesame}/2%")
    assert outcomes(tuning.resume(tmp_path / "a", trials=3)) == ["finished"] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("worker", {"id": "../../../x", "host": "h", "folder": "/"}),
        ("worker", 3),
        ("outcome", "nonsense"),
        ("note", 3),
        ("ended", "late"),
    ],
)
def test_what_no_worker_writes_into_a_trial_is_told(
    config, in_memory, tmp_path, monkeypatch, key, value
):
    def spoil(trial, experiment, is_over):
        ended = {"state": optuna.trial.TrialState.FAIL, "user_attrs": {key: value}}
        trial.study.add_trial(optuna.trial.create_trial(**ended))
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr(tuning, "_train", spoil)
    with pytest.raises(CheckpointError, match=r"trial 1 is not as charlm writes it"):
        tune(config, [RATE], out=tmp_path / "tuned", trials=3)


def test_a_worker_is_heard_of_while_it_trains_and_stops_when_its_trial_is_not_its_own_any_more(
    config, server, tmp_path, monkeypatch
):
    monkeypatch.setattr(workers, "BEAT_SECONDS", 0.05)

    def until(is_so) -> bool:
        deadline = time.monotonic() + 60
        while not is_so() and time.monotonic() < deadline:
            time.sleep(0.02)
        return is_so()

    def wait(trial, experiment, is_over):
        def facts() -> dict:
            return trial.study.trials[trial.number].user_attrs

        if trial.number == 0:
            assert until(lambda: facts()["seen"] > facts()["began"]) and not is_over()
            trial.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            assert until(is_over)
            return "unfinished"
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr(tuning, "_train", wait)
    found = tune(
        config, [RATE], out=tmp_path / "tuned", trials=1, storage=server.url(), study="heard"
    )
    assert outcomes(found) == ["failed", "finished"]


def test_a_folder_s_name_may_have_braces(config, tmp_path, monkeypatch):
    scoring(monkeypatch, 1.0)
    assert tune(config, [RATE], out=tmp_path / "{tuned}", trials=1).best


def test_a_folder_is_not_taken_for_that_of_a_search_begun_anew_under_the_same_name(
    config, server, tmp_path, monkeypatch
):
    scoring(monkeypatch, 1.0, 2.0)
    options = {"storage": server.url(), "study": "anew"}
    tune(config, [RATE], out=tmp_path / "tuned", trials=1, **options)
    with storage.at_url(server.url(), "anew") as place:
        optuna.delete_study(study_name="anew", storage=place.backend)
    tune(config, [RATE], out=tmp_path / "other", trials=2, **options)
    with pytest.raises(CheckpointError, match=r"holds another search, which .* has no more"):
        tune(config, [RATE], out=tmp_path / "tuned", trials=2, **options)
