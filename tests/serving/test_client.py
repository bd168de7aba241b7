"""`charlm.connect` and `charlm sample --url`: a run on a server, used like a local run."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from serving.servers import KEY, loaded, running

import charlm
from charlm.cli import main
from charlm.errors import CharlmError, OptionError, UnsupportedOptionError


@pytest.fixture
def remote(url):
    return charlm.connect(url)


@pytest.fixture(scope="module")
def local(trained):
    return charlm.load(trained, device="cpu")


def test_samples_are_those_of_a_local_run(remote, local):
    cases = [
        {},
        {"prompt": "The ", "count": 3, "temperature": 0.5, "length": 20},
        {"prompt": "The ", "best_of": 4, "length": 20, "length_penalty": 1.0},
        {"until": ["."], "seed": 3},
        {"characters": 30, "top_k": 3, "min_p": 0.05, "typical": 0.9},
        {"matching": "(The|A) (cat|dog)\\.", "seed": 2},
        {"ban": ["c", "d"], "length": 40},
        {"prompt": "Ž", "allow_unknown": True, "length": 5},
        {"repetition_penalty": 1.5, "repetition_window": 3, "no_repeat_ngram": 3, "eta": 0.01},
    ]
    for options in cases:
        found = remote.sample(**options)
        expected = local.sample(**options)
        for one, other in zip(found, expected, strict=True):
            assert (one.number, one.prompt, one.text, one.tokens, one.ended, one.seed) == (
                other.number,
                other.prompt,
                other.text,
                other.tokens,
                other.ended,
                other.seed,
            ), options
            assert one.log_probabilities == pytest.approx(other.log_probabilities)
            assert one.log_probability == pytest.approx(other.log_probability)


def test_records_end_as_in_a_local_run(url, trained_records):
    remote = charlm.connect(f"{url}/v1/", model=trained_records.name)
    expected = charlm.load(trained_records, device="cpu").sample(count=5)
    assert [sample.text for sample in remote.sample(count=5)] == [item.text for item in expected]
    assert [sample.ended for sample in remote.sample(count=5)] == [item.ended for item in expected]
    assert remote.record_separator == "\n"


def test_a_stream_has_the_pieces_of_a_local_run(remote, local):
    options = {"prompt": "The ", "length": 30, "seed": 4}
    assert "".join(remote.stream(**options)) == "".join(local.stream(**options))


def test_a_stream_may_have_every_character_at_which_python_ends_a_line(page_runs):
    prompt = "line\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    with running([page_runs["bytes"]]) as url:
        assert "".join(charlm.connect(url).stream(prompt=prompt, length=1)).startswith(prompt)


def test_sentences_are_scored_as_in_a_local_run(remote, local):
    sentences = ["The cat sat.", "Cat the sat."]
    found = remote.sentences(sentences, explain=True)
    assert found.sentences == local.sentences(sentences, explain=True).sentences
    assert found.ranked()[0].text == "The cat sat."


def test_what_needs_the_run_on_this_machine_is_refused(remote):
    for options in (
        {"novel": True},
        {"state_in": "x"},
        {"state_out": True},
        {"count": 2, "best_of": 2},
        {"count": 100_000},
    ):
        with pytest.raises(UnsupportedOptionError) as caught:
            remote.sample(**options)
        assert caught.value.option in options
    with pytest.raises(OptionError) as wrong:
        remote.sample(temperature=-1)
    assert wrong.value.option == "temperature"


def test_what_the_server_refuses_names_the_option_of_python(remote):
    with pytest.raises(UnsupportedOptionError) as caught:
        remote.sample(prompt="Ž")
    assert caught.value.option == "prompt"
    with pytest.raises(UnsupportedOptionError) as caught:
        remote.sample(matching="(")
    assert caught.value.option == "matching"


@contextmanager
def stranger(answer: bytes) -> Iterator[str]:
    """A server that is not charlm's."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_each_failure_to_connect_is_one_clear_line(url, trained):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    cases = [(f"http://127.0.0.1:{port}", "no server answers; start one with charlm serve")]
    cases += [(bad, "such as http://127.0.0.1:8765") for bad in ("", "x", "ftp://a", "http://")]
    for address, message in cases:
        with pytest.raises(CharlmError, match=message):
            charlm.connect(address)
    for answer in (b"{}", b"[]", b"<html>", b"\xff", json.dumps({"server": "x"}).encode()):
        with stranger(answer) as address, pytest.raises(CharlmError, match="no server of charlm"):
            charlm.connect(address)
    with pytest.raises(CharlmError, match=f"has no run 'nobody', but {trained.name}"):
        charlm.connect(url, model="nobody")


def test_a_key_is_sent_and_never_shown(trained):
    with running(loaded(trained), api_key=KEY) as address:
        for key in (None, "0123456789abcdef0"):
            with pytest.raises(CharlmError, match="needs a key, or refuses this one"):
                charlm.connect(address, api_key=key)
        remote = charlm.connect(address, api_key=KEY)
        assert remote.sample(length=3)[0].tokens
        assert KEY not in repr(remote)


def run_command(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main.run(["sample", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_prints_the_same_with_a_url(url, trained, trained_records, capsys):
    cases = [
        ["--prompt", "The ", "--seed", "3"],
        ["--prompt", "The ", "--seed", "3", "--count", "3", "--length", "20", "--until", "."],
        ["--seed", "3", "--temperature", "0", "--max-copy", "4"],
    ]
    for options in cases:
        expected = run_command(capsys, str(trained), *options, "--device", "cpu")
        assert run_command(capsys, "--url", url, *options) == expected
    options = ["--count", "3", "--seed", "1"]
    expected = run_command(capsys, str(trained_records), *options, "--device", "cpu")
    assert run_command(capsys, trained_records.name, "--url", url, *options) == expected


def test_the_json_of_the_command_differs_only_in_the_name_of_the_run(url, trained, capsys):
    options = ["--prompt", "The ", "--seed", "3", "--length", "9", "--json"]
    expected = json.loads(run_command(capsys, str(trained), *options)[1])
    found = json.loads(run_command(capsys, "--url", url, *options)[1])
    assert found.pop("run") == f"{url} {trained.name}"
    expected.pop("run")
    for name in ("log_probabilities", "log_probability"):
        assert found.pop(name) == pytest.approx(expected.pop(name))
    assert found == expected


def test_the_command_says_in_one_line_what_is_wrong(url, trained, tmp_path, capsys):
    key = tmp_path / "key"
    key.write_text(KEY, encoding="utf-8")
    cases = [
        (["--url", url, "--next"], 2, "--next: cannot be combined with --url"),
        (["--url", url, "--novel"], 2, "--novel: cannot be combined with --url"),
        (["--url", url, "--beams", "2"], 2, "--beams: cannot be combined with --url"),
        (["--url", url, "--device", "cpu"], 2, "--device: cannot be combined with --url"),
        (["--api-key-file", str(key)], 2, "--api-key-file: has no effect without --url"),
        (["--url", url, "--prompt", "Ž"], 1, "--prompt: use only characters"),
        (["--url", url, "nobody"], 1, "has no run 'nobody'"),
        (["--url", "http://127.0.0.1:1"], 1, "no server answers"),
        (["--url", "127.0.0.1"], 2, "--url: must be an address such as"),
    ]
    for arguments, status, message in cases:
        found, out, err = run_command(capsys, *arguments)
        assert (found, out, err.count("\n")) == (status, "", 1), (arguments, err)
        assert message in err, (arguments, err)
