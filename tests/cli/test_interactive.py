"""`charlm sample --interactive`, under a pseudo-terminal."""

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import small_config, train_all

import charlm
from charlm.cli import interactive
from charlm.cli.interactive import Conversation
from charlm.cli.main import run as command
from charlm.errors import CharlmError, OptionError
from charlm.sampling.options import SampleOptions, StopCondition

CONTROL_C, CONTROL_D = b"\x03", b"\x04"


def _as_in_a_terminal() -> None:
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    # The tests may run in the background, where SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class User:
    """A user at a terminal, who waits for the prompt and types."""

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

    def wait_for(self, ending: str, seconds: float = 60, pressing: bytes = b"") -> str:
        """Return the output once it ends so; press a key every second while there is none."""
        seen, deadline, pressed = "", time.monotonic() + seconds, -1.0
        while not seen.endswith(ending):
            assert time.monotonic() < deadline, seen
            if pressing and not seen and time.monotonic() > pressed + 1:
                self.press(pressing)
                pressed = time.monotonic()
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    seen += os.read(self._ours, 4096).decode(errors="replace").replace("\r\n", "\n")
                except OSError:
                    pytest.fail(f"the program ended: {seen}")
        return seen

    def type(self, line: str) -> str:
        """Type a line; return the output until the next prompt, without the echo."""
        self.press(f"{line}\n".encode())
        return self.wait_for("\n> ").split("\n", 1)[1].removesuffix("> ")

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def exit_status(self) -> int:
        """Read to the end of the output; return the exit status."""
        with contextlib.suppress(OSError):
            while os.read(self._ours, 4096):
                pass
        status = self.process.wait(20)
        os.close(self._ours)
        return status


@pytest.fixture
def user(trained) -> Iterator[User]:
    someone = User(trained, "--seed", 1, "--length", 30)
    yield someone
    with contextlib.suppress(ProcessLookupError):
        someone.process.kill()
    someone.process.wait()


def test_a_user_writes_in_turns_interrupts_and_quits(user):
    assert "/h is help" in user.wait_for("> ")
    first = user.type("The cat")
    assert first.startswith("The cat") and len(first) == len("The cat") + 30 + 1
    assert "/top-p: must be between 0 and 1, got 7" in user.type("/top-p 7")
    assert "no such command" in user.type("/nonsense")
    assert "'Ž'" in user.type("Žebra")
    user.type("/length 1000000")
    user.press(b"The cat\n")
    time.sleep(1)
    user.press(CONTROL_C)
    assert "The cat" in user.wait_for("\n> ")
    assert "length 4" in user.type("/length 4")
    assert len(user.type("The")) == len("The") + 4 + 1
    # Python misses a Ctrl-C in the instant between prompt and waiting: a user presses it again.
    assert "quits" in user.wait_for("\n> ", pressing=CONTROL_C)
    user.press(CONTROL_D)
    assert user.exit_status() == 0


# The conversation without a terminal


class Terminal(io.StringIO):
    """Lines that a user types."""

    def isatty(self) -> bool:
        return True


def test_a_text_that_goes_to_a_file_has_no_prompts(trained, monkeypatch, capfd):
    monkeypatch.setattr("sys.stdin", Terminal("The cat\n"))
    interactive.converse(begin(trained))
    out = capfd.readouterr().out
    assert out.startswith("The cat") and "> " not in out


def begin(folder) -> Conversation:
    options = SampleOptions(stop=StopCondition(20), seed=3)
    return Conversation(charlm.load(folder).trained, options, raw=False)


@pytest.fixture
def take(trained, capfd) -> Callable[[str], str]:
    """A function that gives a line to a conversation and returns what is printed on stdout."""
    conversation = begin(trained)

    def take(line: str) -> str:
        assert conversation.take(line)
        return capfd.readouterr().out

    return take


def test_turns_continue_one_another_as_one_text(take, trained):
    text = take("The cat")[:-1] + take("")[:-1] + take("")[:-1]
    assert text == charlm.load(trained).sample(prompt="The cat", length=60, seed=3)[0].text
    assert take("/t") == text + "\n"


def test_undoing_a_turn_leaves_no_trace(take):
    first = take("The cat")
    second = take("The dog")
    assert take("/u") == first
    assert take("The dog") == second
    assert take("/t") == first[:-1] + second


def test_a_retry_keeps_the_line_and_changes_the_seed(take):
    texts = {take("The cat"), take("/r"), take("/r")}
    assert len(texts) == 3 and all(text.startswith("The cat") for text in texts)


def test_settings_are_changed_and_turned_off(take):
    take("/temperature 0")
    assert take("The ") == take("/r")
    take("/until .")
    take("/length off")
    assert take("The").endswith(".\n")
    take("/until off")
    take("/characters 3")
    assert len(take("The")) == 7
    assert take("/s") == ""  # The settings go to stderr.


def test_settings_have_the_names_of_the_options_of_the_command(trained, capfd):
    conversation = begin(trained)
    conversation.take("/no-repeat 3")
    assert "no-repeat 3" in capfd.readouterr().err
    assert conversation.options.filters.no_repeat_ngram == 3
    for line, place in (("/no-repeat 0", "/no-repeat: "), ("/until Ž", "/until: "), ("Ž", "the ")):
        with pytest.raises(OptionError) as caught:
            conversation.take(line)
        message = caught.value.message(interactive.option_name)
        assert message.startswith(place), message
        assert ("or pass --allow-unknown" in message) is ("Ž" in line), message


def test_help_and_errors_name_the_settings(trained, capfd):
    conversation = begin(trained)
    conversation.take("/h")
    listed = capfd.readouterr().err
    assert "repetition-penalty" in listed and "no-repeat" in listed and "logit" not in listed
    conversation.take("/until .")
    assert capfd.readouterr().err == "temperature 0.8, length 20, until '.'\n"
    for line, message in (
        ("/temprature 1", "/temprature: no such command or setting (nearest: /temperature); /h "),
        ("/r now", "/r: is a command without a value; leave it out, got 'now'"),
        ("/q now", "/q: is a command without a value"),
        ("/length 3.5", "/length: must be a whole number, or off, got '3.5'"),
        ("/top-p x", "/top-p: must be a number, or off, got 'x'"),
    ):
        with pytest.raises(CharlmError) as caught:
            conversation.take(line)
        error = caught.value
        is_option = isinstance(error, OptionError)
        text = error.message(interactive.option_name) if is_option else str(error)
        assert text.startswith(message), text


def test_undoing_the_first_turn_says_that_the_text_is_empty(trained, capfd):
    conversation = begin(trained)
    conversation.take("The cat")
    capfd.readouterr()
    conversation.take("/u")
    assert capfd.readouterr() == ("", "the text is empty; type a line\n")


def test_lines_may_contain_line_breaks_and_begin_with_a_slash(take):
    assert take("The cat.\\nThe").startswith("The cat.\nThe")
    with pytest.raises(CharlmError, match="'/'"):  # The model gets the slash, and it is unknown.
        take("//t")


def test_there_is_nothing_to_undo_or_retry_at_the_beginning(take, capfd):
    assert take("/u") == take("/r") == ""


def test_q_ends_the_conversation(trained):
    assert not begin(trained).take("/q")


def test_a_wrong_setting_is_refused_and_changes_nothing(trained):
    conversation = begin(trained)
    before = conversation.options
    lines = (
        "temperature hot",
        "temperature -1",
        "top-k 0",
        "nothing 3",
        "length x",
        "length 0",
        "until Ž",
        "",
    )
    for line in lines:
        with pytest.raises(CharlmError):
            conversation.take(f"/{line}")
        assert conversation.options == before, line


def test_a_new_record_begins_when_one_has_ended(trained_records, capfd):
    conversation = begin(trained_records)
    conversation.take("ba")
    conversation.take("mu")
    conversation.take("/t")
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == lines[2:] and lines[1].startswith("mu")


def test_a_conversation_does_not_begin_with_a_text_to_stop_at_that_is_never_written(trained):
    options = SampleOptions(stop=StopCondition(20, until=("Ž",)))
    with pytest.raises(CharlmError, match="never writes 'Ž'"):
        Conversation(charlm.load(trained).trained, options, raw=False)


def test_a_line_may_end_with_the_space_before_the_next_word(text_file, tmp_path, capfd):
    train_all(small_config(text_file, "tokenizer.level=word", "training.steps=2"), tmp_path / "run")
    conversation = begin(tmp_path / "run")
    for line, text in (("The ", "The "), (" ", " ")):
        conversation.take(line)
        shown = capfd.readouterr().out
        assert shown.startswith(text) and shown[len(text)] != " ", line


def test_a_line_that_is_not_utf_8_is_refused_and_the_conversation_goes_on(
    trained, monkeypatch, capfd
):
    lines = io.BytesIO(b"caf\xe9\nThe\n/t\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines, "utf-8", errors="surrogateescape"))
    assert command(["sample", str(trained), "--interactive", "--length=4"]) == 0
    out, err = capfd.readouterr()
    assert "the line is not UTF-8: byte 0xe9; type it again" in err
    text = out[: len("The") + 4]
    assert text.startswith("The") and out.count(text) == 2
