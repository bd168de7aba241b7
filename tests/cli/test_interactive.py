"""`charlm sample --interactive`, under a pseudo-terminal."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import charlm
from charlm.cli.interactive import Conversation
from charlm.errors import CharlmError
from charlm.sampling.generator import Settings
from charlm.sampling.text_stream import StopCondition

CONTROL_C, CONTROL_D = b"\x03", b"\x04"


def _as_in_a_terminal() -> None:
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ignored, where the tests themselves run in the background.


class Person:
    """Someone at a terminal, who waits for the prompt and types."""

    def __init__(self, *arguments: object) -> None:
        self._ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "dumb", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "charlm", "sample", *map(str, arguments), "--interactive"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=True,
            preexec_fn=_as_in_a_terminal,
        )
        os.close(theirs)

    def sees(self, ending: str, seconds: float = 60, pressing: bytes = b"") -> str:
        """Return what has come once it ends so; while nothing comes, a key is pressed every second."""
        seen, deadline, pressed = "", time.monotonic() + seconds, -1.0
        while not seen.endswith(ending):
            assert time.monotonic() < deadline, seen
            if pressing and not seen and time.monotonic() > pressed + 1:
                self.presses(pressing)
                pressed = time.monotonic()
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    seen += os.read(self._ours, 4096).decode(errors="replace").replace("\r\n", "\n")
                except OSError:
                    pytest.fail(f"it ended: {seen}")
        return seen

    def types(self, line: str, end: str = "\n") -> str:
        """Type a line; return what comes until the next prompt, the echo left out."""
        os.write(self._ours, (line + end).encode())
        return self.sees("\n> ").split("\n", 1)[1].removesuffix("> ")

    def presses(self, key: bytes) -> None:
        os.write(self._ours, key)

    def leaves(self) -> int:
        with contextlib.suppress(OSError):
            while os.read(self._ours, 4096):
                pass
        status = self.process.wait(20)
        os.close(self._ours)
        return status


@pytest.fixture
def person(trained) -> Iterator[Person]:
    someone = Person(trained, "--seed", 1, "--length", 30)
    yield someone
    with contextlib.suppress(ProcessLookupError):
        someone.process.kill()
    someone.process.wait()


def test_a_person_writes_the_model_goes_on_they_edit_and_go_on(person):
    assert "/h is help" in person.sees("> ")
    first = person.types("The cat")
    assert first.startswith("The cat") and len(first) == len("The cat") + 30 + 1
    second = person.types("/r")
    assert second.startswith("The cat") and second != first
    third = person.types("The dog")
    assert third.startswith("The dog")
    assert person.types("/t") == second[:-1] + third
    assert person.types("/u") == second
    assert "length 5" in person.types("/length 5")
    assert len(person.types("")) == 6
    assert "top_p must lie from 0 to 1, got 7" in person.types("/top-p 7")
    assert "no such command" in person.types("/nonsense")
    assert "'Ž'" in person.types("Žebra")
    person.presses(b"/q\n")
    assert person.leaves() == 0


def test_ctrl_c_stops_the_writing_and_ctrl_d_the_program(person):
    person.sees("> ")
    person.types("/length 1000000")
    person.presses(b"The cat\n")
    time.sleep(1)
    person.presses(CONTROL_C)
    stopped = person.sees("\n> ")
    assert "The cat" in stopped
    person.types("/length 4")
    assert len(person.types("The")) == len("The") + 4 + 1
    # Python does not hear a Ctrl-C in the instant between prompt and waiting: a person presses it again.
    seen = person.sees("\n> ", pressing=CONTROL_C)
    assert "quits" in seen
    person.presses(CONTROL_D)
    assert person.leaves() == 0


# The conversation itself.


@pytest.fixture
def talk(trained, capfd):
    """A conversation, and what a line makes it print."""
    conversation = begun(trained)

    def take(line: str) -> str:
        assert conversation.take(line)
        return capfd.readouterr().out

    return take


def begun(folder) -> Conversation:
    return Conversation(
        charlm.load(folder),
        settings=Settings(),
        ending=StopCondition(20),
        ban=(),
        seed=3,
        allow_unknown=False,
        raw=False,
    )


def test_turns_go_on_from_one_another_as_one_text(talk, trained):
    told = talk("The cat")[:-1] + talk("")[:-1] + talk("")[:-1]
    assert told == charlm.load(trained).sample(prompt="The cat", length=60, seed=3)[0].text
    assert talk("/t") == told + "\n"


def test_undoing_leaves_no_trace(talk, trained):
    first = talk("The cat")
    second = talk("The dog")
    assert talk("/u") == first
    assert talk("The dog") == second


def test_retrying_keeps_the_line(talk):
    texts = {talk("The cat"), talk("/r"), talk("/r")}
    assert len(texts) == 3 and all(text.startswith("The cat") for text in texts)


def test_settings_are_changed_and_turned_off(talk, capfd):
    talk("/temperature 0")
    assert talk("The ") == talk("/r")
    talk("/until .")
    talk("/length off")
    assert talk("The").endswith(".\n")
    talk("/until off")
    talk("/characters 3")
    assert len(talk("The")) == 7
    conversation_says = talk("/s")
    assert conversation_says == ""  # On stderr.


def test_lines_hold_breaks_and_may_begin_with_a_slash(talk, trained):
    assert talk("The cat.\\nThe").startswith("The cat.\nThe")
    with pytest.raises(CharlmError, match="'/'"):  # It reaches the model, which never saw one.
        talk("//t")


def test_nothing_to_undo_is_told(talk, capfd):
    assert talk("/u") == talk("/r") == ""


@pytest.mark.parametrize(
    "line", ["/temperature hot", "/temperature -1", "/top-k 0", "/nothing 3", "/length x", "/"]
)
def test_a_wrong_setting_is_told_and_changes_nothing(trained, line):
    conversation = begun(trained)
    with pytest.raises(CharlmError):
        conversation.take(line)
    assert conversation._settings == Settings() and conversation._ending == StopCondition(20)


def test_a_new_record_begins_where_one_has_ended(trained_records, capfd):
    conversation = begun(trained_records)
    conversation.take("ba")
    conversation.take("mu")
    conversation.take("/t")
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == lines[2:] and lines[1].startswith("mu")
