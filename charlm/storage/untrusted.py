"""Reading untrusted files: as plain data, with a limit on their size, and one-line errors.

Parsing a file takes up to about thirty times as much memory as the file has bytes. So each kind of
file has a maximum size: far more than our own files have, and small enough for a laptop.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

MEGABYTE = 1 << 20
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # Windows has no such flag.
# Longer than any message of ours, and short enough to leave the rest of the terminal readable.
_MAX_MESSAGE_CHARACTERS = 4_000
_MAX_YAML_VALUES = 20_000
_MAX_YAML_CHARACTERS = 10_000
_MAX_YAML_DIGITS = 100
_TEXT_TAG, _NULL_TAG = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null"
_INT_TAG, _FLOAT_TAG = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_COMMENT = re.compile(r"[ \t]*(#[^\s\0]+)")  # A comment without a space after #, such as ###.

Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class StrictModel(BaseModel):
    """Types that the fields of an untrusted JSON object must have; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def read_regular_file(path: Path, *, max_bytes: int) -> bytes:
    """Return the contents of a regular file; never wait, as one would for a pipe.

    Args:
        path: The file.
        max_bytes: Largest size that is accepted.

    Raises:
        OSError: The file cannot be read, or is a folder, a pipe or a device.
        ValueError: The file is larger than `max_bytes`.
    """
    handle = os.open(path, os.O_RDONLY | _NO_WAIT)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(
                errno.EINVAL, "not a regular file, but a folder, a pipe or a device", str(path)
            )
        if status.st_size > max_bytes:
            raise ValueError(f"it has {status.st_size} bytes, but at most {max_bytes} are accepted")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:  # A disk that fails during a read does not name the file.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(handle)


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text in UTF-8.

    Raises:
        ValueError: The text is not valid JSON. The message is one line.
    """
    try:
        return json.loads(data.decode() if isinstance(data, bytes) else data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str, *, text_keys: Collection[tuple[str, ...]] = ()) -> Any:
    """Return the value of a YAML text of plain values, lists and mappings.

    Tags such as `!!python/object` are refused. So are anchors and aliases, with which a short text
    can stand for an enormous value; and what YAML reads as something else than it seems to say:
    repeated keys, `010` (8), `1:30` (90), and `###` as a value (a comment).

    Args:
        text: The YAML text.
        text_keys: Keys, each after the keys of the mappings around it, whose values are text. There
            `no` and `2020` are not converted. All keys are text.

    Raises:
        ValueError: The text is not such YAML. The message is one line.
    """
    try:
        loader = _PlainLoader(text)
        loader.text_keys = text_keys
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        place = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise ValueError(one_line(f"{_describe(error)}{place}")) from None
    except yaml.YAMLError as error:
        raise ValueError(one_line(" ".join(str(error).split()))) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except OverflowError as error:
        raise ValueError(str(error)) from None


def one_line(text: str) -> str:
    """Return a message that quotes a file as one line.

    Line ends and control characters are escaped, and the middle of a long message is cut.
    """
    if len(text) > _MAX_MESSAGE_CHARACTERS:
        half = _MAX_MESSAGE_CHARACTERS // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


class _PlainLoader(yaml.SafeLoader):
    """A YAML loader for plain values only: nothing can be run, and no short text becomes huge."""

    text_keys: Collection[tuple[str, ...]] = ()
    num_values = 0
    keys: tuple[str, ...] = ()  # Keys of the mappings around the current value.

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a value, unless it is tagged, is an anchor or an alias, or is too large."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.num_values += 1
        _refuse(self._problem_of(event), event.start_mark)
        outer_keys = self.keys
        if isinstance(index, yaml.ScalarNode):
            self.keys = (*outer_keys, index.value)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            _refuse_repeated_keys(node)
        elif isinstance(node, yaml.ScalarNode):
            is_key = isinstance(parent, yaml.MappingNode) and index is None
            _check_scalar(node, is_text=is_key or self.keys in self.text_keys)
        self.keys = outer_keys
        return node

    def _problem_of(self, event: Any) -> str:
        """Return why a value is refused; an empty text if it is accepted."""
        if self.num_values > _MAX_YAML_VALUES:
            return f"has more than {_MAX_YAML_VALUES} values"
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > _MAX_YAML_CHARACTERS:
            return f"a value has more than {_MAX_YAML_CHARACTERS} characters"
        refused = (problem for name, problem in _REFUSED.items() if getattr(event, name, None))
        return next(refused, "")


def _describe(error: yaml.MarkedYAMLError) -> str:
    """Return PyYAML's message, with the remedy where a sign has a meaning in YAML."""
    problem = error.problem or error.context or ""
    if "'\\t' that cannot start" in problem:
        return "a tab is found; use spaces instead"
    begins_with_sign = error.context in ("while scanning an alias", "while scanning an anchor")
    if begins_with_sign or "cannot start any token" in problem or "sequence entries" in problem:
        return f"{problem}; put a text that begins with such a sign in quotes"
    return problem


def _refuse(problem: str, mark: Any) -> None:
    if problem:
        raise yaml.composer.ComposerError(None, None, problem, mark)


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.value in lines:
            problem = f"the key {key.value} is already on line {lines[key.value]}; keep one of them"
            _refuse(problem, key.start_mark)
        lines[key.value if isinstance(key, yaml.ScalarNode) else ""] = line


def _check_scalar(node: yaml.ScalarNode, *, is_text: bool) -> None:
    """Make a scalar text where text is expected; refuse one that is not what it seems to be."""
    # JSON writes a character above U+FFFF as two halves, each of which YAML reads by itself.
    node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if is_text and node.tag != _NULL_TAG:
        node.tag = _TEXT_TAG
    _refuse(_problem_of_scalar(node), node.start_mark)


def _problem_of_scalar(node: yaml.ScalarNode) -> str:
    """Return why a scalar is refused; an empty text if it is accepted."""
    value, mark = node.value.replace("_", ""), node.start_mark
    remedy = "or put a text in quotes"
    if node.tag == _INT_TAG and len(value) > _MAX_YAML_DIGITS:
        return f"a number has more than {_MAX_YAML_DIGITS} digits"
    if node.tag in (_INT_TAG, _FLOAT_TAG) and ":" in value:
        decimal = "a decimal number, such as 1.5 for one and a half"
        return f"{value:.40} is a number in base 60 in YAML; write {decimal}, {remedy}"
    if node.tag == _INT_TAG and (octal := re.fullmatch(r"([-+]?)0+(\d+)", value)):
        return f"{value} is an octal number in YAML; write {octal[1]}{octal[2]}, {remedy}"
    if not value and (comment := _COMMENT.match(mark.buffer or "", mark.pointer)):
        return (
            f"{comment[1]:.40} is a comment in YAML, and no value; write null before it, {remedy}"
        )
    return ""


_REFUSED = {
    "tag": "tags such as !!python/object are not accepted: write the plain value",
    "anchor": "anchors (&) and aliases (*) are not accepted: repeat the value",
}
# Dates stay strings, so that a text that looks like a date is always accepted.
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
