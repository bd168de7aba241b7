"""Reading what a stranger may have written: bounded in size, as data and nothing else, told in one line if wrong.

A file that is parsed takes more memory than it has bytes, up to about thirty times as much, so that each has a size
that it may not exceed: far more than ours ever have, and no more than a laptop can hold.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

MEGABYTE = 1 << 20
# More than any message of ours has, and not so much that the rest of a terminal's lines are lost.
_MOST_CHARACTERS = 4_000
_MOST_YAML_VALUES, _MOST_YAML_CHARACTERS, _MOST_YAML_DIGITS = 20_000, 10_000, 100


Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class StrictModel(BaseModel):
    """What the JSON of a file must be like where it has a field; others are left alone."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def read_regular_file(path: Path, *, max_bytes: int) -> bytes:
    """Return what a file holds; never wait for it, as one would for a pipe.

    Args:
        path: The file.
        max_bytes: Largest size that is accepted, in bytes.

    Raises:
        OSError: It cannot be read, or is a pipe or a device.
        ValueError: It is larger.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(
                errno.EINVAL, "it is no file, but a folder, a pipe or a device", str(path)
            )
        if found.st_size > max_bytes:
            raise ValueError(
                f"it has {found.st_size} bytes, and more than {max_bytes} are never read"
            )
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:  # A disk that fails while it reads does not say in which file.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(handle)


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text, in UTF-8.

    Raises:
        ValueError: It is none, in one line.
    """
    try:
        return json.loads(data.decode() if isinstance(data, bytes) else data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text of plain values, lists and mappings.

    Tags, such as `!!python/object`, are refused, and so are anchors and aliases, by which a short text becomes an
    endless value.

    Raises:
        ValueError: It is no such text, in one line.
    """
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise ValueError(one_line(f"{error.problem or error.context}{where}")) from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(" ".join(str(error).split()))) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except OverflowError as error:
        raise ValueError(str(error)) from None


def one_line(text: str) -> str:
    """Return a message that quotes a file, line ends and control characters escaped and the midst of a long one cut."""
    if len(text) > _MOST_CHARACTERS:
        text = f"{text[: _MOST_CHARACTERS // 2]} [...] {text[-_MOST_CHARACTERS // 2 :]}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class _PlainLoader(yaml.SafeLoader):
    """YAML without what a configuration never needs, and what could be used to run or to exhaust something."""

    values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value, unless it has a tag or an anchor, or is an alias of one."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.values += 1
        problem = next(
            (problem for name, problem in _REFUSED.items() if getattr(event, name, None)), None
        )
        if self.values > _MOST_YAML_VALUES:
            problem = f"has more than {_MOST_YAML_VALUES} values"
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > _MOST_YAML_CHARACTERS:
            problem = f"a value has more than {_MOST_YAML_CHARACTERS} characters"
        if problem is not None:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        node = super().compose_node(parent, index)
        if (
            node is not None
            and node.tag == "tag:yaml.org,2002:int"
            and len(node.value) > _MOST_YAML_DIGITS
        ):
            problem = f"a number has more than {_MOST_YAML_DIGITS} digits"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return node


_REFUSED = {
    "tag": "tags, such as !!python/object, are never read: write the plain value",
    "anchor": "anchors (&) and aliases (*) are never read: write the value out",
}
# A date stays the text that it is, so that no text looks like one and is none.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
