"""The process: its start, its end, and its command."""

import json
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from serving.servers import KEY, own_process

from charlm.cli import main


def read_lines(
    url: str, process: subprocess.Popen[str], number: int, *, tokens: int, **request: object
) -> list[str]:
    """Send a signal after the first part of a stream; return its lines."""
    body = {"prompt": "The ", "max_tokens": tokens, "stream": True}
    lines = []
    request |= {"json": body, "timeout": 60}
    with httpx.stream("POST", f"{url}/v1/completions", **request) as response:
        for line in response.iter_lines():
            if not lines:
                process.send_signal(number)
            lines.append(line)
    return [line for line in lines if line]


def test_the_command_serves_runs_with_a_key_logs_and_ends_on_sigterm_after_the_last_text(
    trained, trained_records, tmp_path
):
    key = tmp_path / "key"
    key.write_text(KEY + "\n", encoding="utf-8")
    headers = {"Authorization": f"Bearer {KEY}"}
    options = ["--api-key-file", key, "--host", "0.0.0.0", "--log"]
    with own_process(trained, trained_records, *options) as (process, url):
        assert httpx.get(f"{url}/v1/models").status_code == 401
        models = httpx.get(f"{url}/v1/models", headers=headers).json()["data"]
        assert [model["id"] for model in models] == [trained.name, trained_records.name]
        assert process.stderr is not None
        assert process.stderr.readline().startswith("GET /v1/models 401 ")
        assert process.stderr.readline().startswith("GET /v1/models 200 ")
        *parts, end = read_lines(url, process, signal.SIGTERM, tokens=300, headers=headers)
        choices = [json.loads(part.removeprefix("data: "))["choices"][0] for part in parts]
        assert sum(len(choice["text"]) for choice in choices) == 300
        assert choices[-1]["finish_reason"] == "length" and end == "data: [DONE]"
        assert process.wait(timeout=60) == 0
        out, err = process.communicate()
        assert out == "" and err.startswith("POST /v1/completions 200 ") and err.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_ends_the_server_with_status_0_and_cuts_a_long_text(trained):
    with own_process(trained) as (process, url):
        lines = read_lines(url, process, signal.SIGINT, tokens=900_000)
        assert "shutting down" in lines[-2] and lines[-1] == "data: [DONE]"
        assert process.wait(timeout=60) == 0
        assert process.communicate() == ("", "")


def test_a_port_in_use_is_one_line(trained, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status = main.run(["serve", str(trained), "--port", str(port), "--device", "cpu"])
    captured = capsys.readouterr()
    assert (status, captured.out) == (1, "")
    assert captured.err == (
        f"charlm: 127.0.0.1:{port}: cannot listen: Address already in use; choose another address "
        "or --port\n"
    )


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    trained, monkeypatch, capsys
):
    cases = [
        ("uvicorn", "charlm.serving.server", ["serve", str(trained)], "serve"),
        ("httpx", "charlm.serving.client", ["sample", "--url", "http://127.0.0.1:1"], "client"),
    ]
    for package, module, arguments, extra in cases:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, module, raising=False)
        assert main.run(arguments) == 1
        line = capsys.readouterr().err
        assert package in line and f"pip install 'charlm-rnn[{extra}]'" in line
        assert line.count("\n") == 1


def test_two_runs_of_one_name_are_refused(trained, capsys):
    assert main.run(["serve", str(trained), str(trained), "--port", "0"]) == 2
    line = capsys.readouterr().err
    assert "RUN...: the folders must have different names" in line and "--runs" not in line
