"""Options of the server: what is refused before it starts."""

import pytest

from charlm.errors import CharlmError, OptionError
from charlm.serving.options import ServeOptions, read_api_key

KEY = "0123456789abcdef"


def test_the_server_listens_on_this_machine_by_default():
    assert ServeOptions().is_local
    assert ServeOptions(host="localhost").is_local and ServeOptions(host="::1").is_local


def test_any_other_address_needs_a_key():
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(OptionError, match="give it a key with api_key_file") as caught:
            ServeOptions(host=host)
        assert caught.value.option == "host"
        assert not ServeOptions(host=host, api_key=KEY).is_local


def test_values_out_of_range_are_refused_with_their_names():
    cases = {
        "port": [-1, 65536],
        "host": ["", "a b", "a/b", "a\n"],
        "allow_host": [("a b",)],
        "allow_origin": [("*",), ("https://*.org",), ("example.org",), ("https://a/b",), ("null",)],
        "max_streams": [0],
        "max_queue": [-1],
        "max_text": [0],
        "max_body": [0],
        "max_connections": [0],
        "idle_seconds": [0, -1, float("inf"), float("nan")],
        "grace_seconds": [0],
        "api_key": ["", "short", "0123456789 abcdef", "0123456789abcdeé"],
    }
    for name, values in cases.items():
        for value in values:
            with pytest.raises(OptionError) as caught:
                ServeOptions(**{name: value})
            assert caught.value.option == name, value


def test_the_key_is_neither_shown_nor_in_messages():
    assert KEY not in repr(ServeOptions(api_key=KEY))
    with pytest.raises(OptionError) as caught:
        ServeOptions(api_key="secret")
    assert "secret" not in str(caught.value)


def test_a_key_is_the_first_line_of_a_file(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(f"  {KEY}\r\nnot this\n".encode())
    assert read_api_key(path) == KEY
    for content in (b"", b"\n", b"short", b"\xff" * 20, b"x" * 5000, "é".encode() * 20):
        path.write_bytes(content)
        with pytest.raises(CharlmError, match="key"):
            read_api_key(path)
    for other in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CharlmError, match="cannot be read"):
            read_api_key(other)
