"""Several workers on one search: shared budget, lost workers, and the place of the best run."""

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
import sqlalchemy

from charlm.config.load import load_config
from charlm.errors import CharlmError, CheckpointError, OptionError, StorageError
from charlm.storage.locks import ProcessLock
from charlm.tuning import results, storage, workers
from charlm.tuning import search as tuning
from charlm.tuning.search import Callbacks, tune
from charlm.tuning.study import Budget

RATE = "training.learning_rate=1e-3..1e-1"


def trials(number: int) -> Budget:
    return Budget(trials=number)


def scoring(monkeypatch, *losses):
    """Let every trial finish immediately; trial N has the loss N of `losses`."""

    def report(trial, experiment, is_stopped):
        trial.report(losses[trial.number], 1000)
        return "finished"

    monkeypatch.setattr("charlm.tuning.trial.train_trial", report)


def outcomes(found) -> list[str]:
    return [trial.outcome for trial in sorted(found.trials, key=lambda trial: trial.number)]


@contextmanager
def a_worker_that_hangs(config, folder: Path, **options) -> Iterator[int]:
    """Begin a search in another process, which hangs in its first trial; return its process id."""
    child = os.fork()
    if child == 0:
        try:
            calls = iter(range(1000))

            def hang() -> bool:
                # Called before the trial and after each step; by the fifth call, a loss is reported.
                if next(calls) == 4:
                    (folder / "hangs").touch()
                    time.sleep(600)
                return False

            callbacks = Callbacks(stop=hang)
            tune(config, [RATE], out=folder, budget=trials(3), callbacks=callbacks, **options)
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


def age_heartbeats(url: str) -> None:
    """Change the recorded heartbeats as if the grace period had passed since."""
    engine = sqlalchemy.create_engine(url)
    now = "datetime('now', '-1 hour')" if url.startswith("sqlite") else "now() - interval '1 hour'"
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"UPDATE trial_heartbeats SET heartbeat = {now}"))
    engine.dispose()


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def places(request, tmp_path):
    """Return the folders of two workers, the options of their storage, and its URL."""
    if request.param == "SQLite":
        folder = tmp_path / "tuned"
        return folder, folder, {}, f"sqlite:///{folder}/study.db"
    url = request.getfixturevalue("server").url()
    options = {"storage": url, "study": request.node.name.replace("[", ".")[:-1]}
    return (
        tmp_path / "one",
        tmp_path / "other",
        options,
        url.replace("postgresql", "postgresql+psycopg", 1),
    )


def test_every_trial_ends_although_one_of_two_workers_is_killed(config, places):
    folder, other, options, url = places
    waited, reported, deadline = [], [], time.monotonic() + 120

    def kill(num_running: int) -> None:
        waited.append(num_running)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        age_heartbeats(url)

    callbacks = Callbacks(
        wait=kill,
        stop=lambda: time.monotonic() > deadline,
        report=lambda trial, best: reported.append(trial.number),
    )
    with a_worker_that_hangs(config, folder, **options) as child:
        found = tune(config, [RATE], out=other, budget=trials(3), callbacks=callbacks, **options)
    assert waited == [1]
    assert outcomes(found) == ["failed", "finished", "finished", "finished"]
    assert reported == [1, 2, 3]
    values = {trial.number: trial.values for trial in found.trials}
    assert values[3] == values[0]
    assert len({str(value) for value in values.values()}) == 3
    rows = list(csv.DictReader((other / "trials.csv").read_text().splitlines()))
    assert [row["outcome"] for row in rows] == ["finished", "finished", "finished", "failed"]
    assert rows[-1]["host"] == socket.gethostname() and rows[-1]["folder"] == str(folder)
    kept = {path.parents[1].name for path in (other / "trials").glob("*/*/*.safetensors")}
    assert kept == {str(found.best.number)}


def test_a_running_trial_without_heartbeats_is_tried_again(config, tmp_path, monkeypatch):
    # Its worker was killed while it began the trial, or belonged to an earlier version of charlm.
    scoring(monkeypatch, 1.0, 2.0, 3.0)
    tune(config, [RATE], out=tmp_path / "tuned", budget=trials(1))
    url = f"sqlite:///{tmp_path}/tuned/study.db"
    study = optuna.load_study(study_name="charlm", storage=url)
    study.enqueue_trial({"training.learning_rate": 0.05})
    study.ask(
        {"training.learning_rate": optuna.distributions.FloatDistribution(1e-3, 1e-1, log=True)}
    )
    found = tuning.resume(tmp_path / "tuned", budget=trials(2))
    assert outcomes(found) == ["finished", "failed", "finished"]
    values = [trial.values["training.learning_rate"] for trial in found.trials]
    assert values[1:] == [0.05, 0.05]


def test_heartbeats_are_recorded_while_a_trial_is_trained(config, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "HEARTBEAT_SECONDS", 0.05)
    url = f"sqlite:///{tmp_path}/tuned/study.db"

    def num_recent() -> int:
        engine = sqlalchemy.create_engine(url)
        query = "SELECT count(*) FROM trial_heartbeats WHERE heartbeat > datetime('now', '-1 hour')"
        with engine.connect() as connection:
            number = connection.execute(sqlalchemy.text(query)).scalar_one()
        engine.dispose()
        return number

    def wait(trial, experiment, is_stopped):
        assert num_recent() == 1
        age_heartbeats(url)
        deadline = time.monotonic() + 60
        while not num_recent() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert num_recent() == 1
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr("charlm.tuning.trial.train_trial", wait)
    assert outcomes(tune(config, [RATE], out=tmp_path / "tuned", budget=trials(1))) == ["finished"]


def test_a_database_that_is_away_for_a_while_does_not_end_the_heartbeats(monkeypatch):
    monkeypatch.setattr(workers, "HEARTBEAT_SECONDS", 0.01)
    calls = []

    class Away:
        def record_heartbeat(self, study_name: str, number: int) -> None:
            calls.append((study_name, number))
            raise sqlalchemy.exc.OperationalError("", {}, Exception("away"))

    study, trial = optuna.create_study(study_name="a"), None
    trial = study.ask()
    deadline = time.monotonic() + 60
    with workers.heartbeats(study, trial, Away()):
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert set(calls) == {("a", 0)} and len(calls) >= 3


def test_two_workers_never_try_the_same_values(config, in_memory, tmp_path, monkeypatch):
    met = []

    def meet(trial, experiment, is_stopped):
        trial.report(1.0, 1000)
        if (
            trial.number == 0
        ):  # While this one is running, another worker tries all that is left, and then waits.
            met.append(
                tuning.resume(
                    tmp_path / "tuned",
                    budget=trials(5),
                    callbacks=Callbacks(wait=met.append, stop=lambda: len(met) > 0),
                )
            )
        return "finished"

    monkeypatch.setattr("charlm.tuning.trial.train_trial", meet)
    found = tune(config, ["model.hidden_size=8,16,24"], out=tmp_path / "tuned", budget=trials(5))
    assert met[0] == 1 and met[1].num_running == 1 and met[1].num_ended == 2
    assert sorted(trial.values["model.hidden_size"] for trial in found.trials) == [8, 16, 24]
    assert found.exhausted


def test_the_budget_is_shared_by_all_workers(config, in_memory, tmp_path, monkeypatch):
    seen = []

    def meet(trial, experiment, is_stopped):
        trial.report(1.0, 1000)
        if trial.number == 0:
            seen.append(
                tuning.resume(
                    tmp_path / "tuned",
                    callbacks=Callbacks(wait=seen.append, stop=lambda: len(seen) > 0),
                )
            )
        return "finished"

    monkeypatch.setattr("charlm.tuning.trial.train_trial", meet)
    assert outcomes(tune(config, [RATE], out=tmp_path / "tuned", budget=trials(2))) == [
        "finished",
        "finished",
    ]
    assert seen[0] == 1 and [trial.outcome for trial in seen[1].trials] == ["finished", "running"]


def test_the_time_in_which_two_trials_ran_is_counted_once():
    assert results.covered_seconds([(0.0, 4.0), (10.0, 11.0), (1.0, 3.0), (2.0, 6.0)]) == 7.0


def test_a_worker_taken_for_lost_leaves_its_trial_to_the_others(
    config, in_memory, tmp_path, monkeypatch
):
    def lose(trial, experiment, is_stopped):
        if trial.number == 0:
            trial.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr("charlm.tuning.trial.train_trial", lose)
    assert outcomes(tune(config, [RATE], out=tmp_path / "tuned", budget=trials(2))) == [
        "failed",
        "finished",
        "finished",
    ]


def test_values_that_fail_three_times_are_given_up(config, in_memory, tmp_path, monkeypatch):
    def crash(trial, experiment, is_stopped):
        if experiment.config.model.hidden_size == (16,):
            raise RuntimeError
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr("charlm.tuning.trial.train_trial", crash)
    for _ in range(storage.MAX_ATTEMPTS):
        with pytest.raises(RuntimeError):
            tune(config, ["model.hidden_size=8,16"], out=tmp_path / "tuned", budget=trials(2))
    found = tune(config, ["model.hidden_size=8,16"], out=tmp_path / "tuned", budget=trials(2))
    assert outcomes(found) == ["failed"] * storage.MAX_ATTEMPTS + ["finished"] and found.exhausted


def test_a_lock_is_waited_for_and_free_once_it_is_released(tmp_path):
    lock, other = ProcessLock(tmp_path / "lock"), ProcessLock(tmp_path / "lock")
    lock.acquire(error_type=CheckpointError, remedy="wait")
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="is at work in this folder; wait"):
        other.acquire(error_type=CheckpointError, remedy="wait", wait_seconds=0.1)
    assert time.monotonic() - began >= 0.1
    lock.release()
    other.acquire(error_type=CheckpointError, remedy="wait")
    other.release()


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
def test_a_url_of_another_kind_is_refused_and_not_quoted(config, tmp_path, url):
    with pytest.raises(OptionError, match=r"^storage: must be a PostgreSQL database") as error:
        tune(config, [RATE], out=tmp_path / "tuned", budget=trials(1), storage=url)
    assert "secret" not in str(error.value) and not (tmp_path / "tuned").exists()


def test_an_unreachable_database_is_reported_in_one_line_and_nothing_is_written(config, tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(StorageError) as error:
        tune(
            config,
            [RATE],
            out=tmp_path / "tuned",
            budget=trials(1),
            storage="postgresql://me:sec%2Fret@127.0.0.1:1/data",
        )
    line = str(error.value)
    assert (
        line.startswith("postgresql://me@127.0.0.1:1/data: cannot be used: ")
        and "check that it is running" in line
    )
    assert (
        "\n" not in line
        and "sec" not in line.removeprefix("postgresql://me@127.0.0.1:1").split("(--storage")[0]
    )
    assert not (tmp_path / "tuned").exists()


def test_a_missing_driver_is_reported_with_its_installation(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(CharlmError, match=r"pip install 'charlm-rnn\[tune-postgresql\]'"):
        tune(
            config,
            [RATE],
            out=tmp_path / "tuned",
            budget=trials(1),
            storage="postgresql://me@host/data",
        )


def test_a_search_in_the_folder_and_one_in_a_database_are_kept_apart(
    config, in_memory, tmp_path, monkeypatch
):
    scoring(monkeypatch, 1.0)
    tune(config, [RATE], out=tmp_path / "tuned", budget=trials(1))
    with pytest.raises(
        CheckpointError, match=r"contains a search in study.db; leave out --storage"
    ):
        tuning.resume(tmp_path / "tuned", storage="postgresql://me@host/data")


def test_the_best_run_may_be_in_another_folder_and_its_settings_are_written_here(
    config, server, tmp_path, monkeypatch
):
    scoring(monkeypatch, 1.0, 2.0, 3.0)
    options = {"storage": server.url(), "study": "elsewhere"}
    one = tune(config, [RATE], out=tmp_path / "one", budget=trials(1), **options)
    assert one.best_host == "" and one.use == f"charlm sample {tmp_path / 'one/trials/0'}"
    (tmp_path / "copy.txt").write_bytes(Path(config.corpus.text[0]).read_bytes())
    elsewhere = config.model_copy(
        update={"corpus": config.corpus.model_copy(update={"text": (f"{tmp_path}/copy.txt",)})}
    )
    found = tune(elsewhere, [RATE], out=tmp_path / "other", budget=trials(3), **options)
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
            config,
            [search],
            out=tmp_path / name,
            budget=trials(2),
            storage=server.url(),
            study=name,
        )
        assert outcomes(found) == ["finished", "finished"]
    with pytest.raises(
        CheckpointError,
        match=r"a contains another search: the search space changed since; give another --s",
    ):
        tune(
            config,
            ["model.hidden_size=8,16"],
            out=tmp_path / "c",
            budget=trials(2),
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
    assert outcomes(tuning.resume(tmp_path / "a", budget=trials(3))) == ["finished"] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("worker", {"host": "h"}),
        ("worker", 3),
        ("outcome", "nonsense"),
        ("note", 3),
        ("ended", "late"),
    ],
)
def test_a_trial_that_charlm_cannot_have_written_is_refused(
    config, in_memory, tmp_path, monkeypatch, key, value
):
    def spoil(trial, experiment, is_stopped):
        ended = {"state": optuna.trial.TrialState.FAIL, "user_attrs": {key: value}}
        trial.study.add_trial(optuna.trial.create_trial(**ended))
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr("charlm.tuning.trial.train_trial", spoil)
    with pytest.raises(CheckpointError, match=r"trial 1 was not written by charlm"):
        tune(config, [RATE], out=tmp_path / "tuned", budget=trials(3))


def test_the_name_of_a_folder_may_contain_braces(config, tmp_path, monkeypatch):
    scoring(monkeypatch, 1.0)
    assert tune(config, [RATE], out=tmp_path / "{tuned}", budget=trials(1)).best


def test_a_folder_does_not_join_a_new_search_with_the_same_name(
    config, server, tmp_path, monkeypatch
):
    scoring(monkeypatch, 1.0, 2.0)
    options = {"storage": server.url(), "study": "anew"}
    tune(config, [RATE], out=tmp_path / "tuned", budget=trials(1), **options)
    with storage.quiet_optuna(), storage.open_at_url(server.url(), "anew") as place:
        optuna.delete_study(study_name="anew", storage=place.backend)
    tune(config, [RATE], out=tmp_path / "other", budget=trials(2), **options)
    with pytest.raises(
        CheckpointError, match=r"contains another search, which .* no longer contains"
    ):
        tune(config, [RATE], out=tmp_path / "tuned", budget=trials(2), **options)
