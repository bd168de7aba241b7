"""Commands that must succeed or be refused, run in this process."""

from charlm.cli.main import run as charlm


def ok(capfd, *arguments: object) -> str:
    """Run a command that must succeed; return what it printed on stdout."""
    assert charlm([*map(str, arguments)]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def refused(capfd, *arguments: object, status: int = 1) -> str:
    """Run a command that must fail with one line on stderr; return the line."""
    assert charlm([*map(str, arguments)]) == status, arguments
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err
