"""Random damage to files, and values that an attacker would write into them."""

import json
import math
import struct
from typing import Any

import yaml
from hypothesis import strategies as st

_PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b"\t",
    b'"',
    b"-1",
    b"0",
    b"9" * 400,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"- " * 500,
    b"\xed\xa0\x80",
    b"\x1b[2J\r",
    b"../../../x",
    b"&a ",
    b"*a",
    b"!!python/object/apply:os.system ['touch /tmp/owned']",
    b"\xff" * 8,
    struct.pack("<Q", 1 << 31),
    struct.pack("<Q", (1 << 63) - 1),
    struct.pack(">I", (1 << 31) - 1),
]
_DEEP: Any = []
for _ in range(300):
    _DEEP = [_DEEP]
_VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    -(10**30),
    0.5,
    -0.5,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "\0",
    "\x1b[2J\nx",
    "../../../etc/passwd",
    "/dev/zero",
    "a" * 5000,
    "\ud800",
    [],
    {},
    [[]],
    [None],
    [1, "a", None],
    {"": {}},
    {"a": 10**12},
    _DEEP,
]


@st.composite
def damaged(draw, seeds: list[bytes]) -> bytes:
    """Draw a file: random bytes, or one of `seeds` with bytes or JSON values replaced."""
    kind = draw(st.sampled_from(["random", "edited", "edited", "valued", "valued"]))
    if kind == "random":
        return draw(st.binary(max_size=200))
    seed = draw(st.sampled_from(seeds))
    if kind == "valued" and (parts := _as_values(seed)) is not None:
        head, value, tail = parts
        for _ in range(draw(st.integers(1, 2))):
            value = draw(_changed(value))
        text = json.dumps(value).encode()
        return (struct.pack("<Q", len(text)) if head else b"") + text + tail
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = at + draw(st.sampled_from([0, 0, 1, 1, 2, 8, 100, len(data)]))
        data[at:end] = draw(st.sampled_from(_PIECES) | st.binary(min_size=1, max_size=4))
    return bytes(data)


def _as_values(data: bytes) -> tuple[bool, Any, bytes] | None:
    """Return the mapping of a YAML or JSON file, or of a safetensors header.

    Returns:
        Whether the length of the mapping precedes it, the mapping, and the bytes after it.
    """
    size = struct.unpack("<Q", data[:8])[0] if len(data) > 8 else 0
    try:
        if 0 < size <= len(data) - 8:
            return True, json.loads(data[8 : 8 + size]), data[8 + size :]
        value = yaml.safe_load(data)
    except (ValueError, yaml.YAMLError):
        return None
    return (False, value, b"") if isinstance(value, dict) else None


@st.composite
def _changed(draw, value: Any) -> Any:
    """Draw a value that differs from `value` in one place, at any depth."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(list(value)))
        change = draw(st.sampled_from(["within", "within", "within", "removed", "added"]))
        rest = {name: item for name, item in value.items() if name != key}
        if change == "removed":
            return rest
        if change == "added":
            return value | {
                draw(st.sampled_from(["x", "", "a\nb", "\ud800", "format"])): value[key]
            }
        return value | {key: draw(_changed(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(_changed(value[at])), *value[at + 1 :]]
    return draw(st.sampled_from(_VALUES))
