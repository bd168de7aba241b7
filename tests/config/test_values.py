"""Values that Python code gives are checked by the annotations of what takes them."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from charlm.config.values import check_counts, checked
from charlm.errors import OptionError

# Type, values that are converted, and values that are refused.
CASES: list[tuple[Any, list[tuple[Any, Any]], list[Any]]] = [
    (
        int,
        [(3, 3), (-1, -1), (np.int64(3), 3), (np.array(3), 3), (torch.tensor(3), 3)],
        [2.5, 2.0, True, np.True_, np.float64(2), "3", None, [3], math.nan, 2**63, b"3"],
    ),
    (
        float,
        [(0.5, 0.5), (2, 2), (np.float32(0.5), 0.5), (np.int8(2), 2), (2**70, 2.0**70)],
        [True, "1", None, math.nan, -math.inf, np.float32("nan"), 10**400, 1j, [1.0]],
    ),
    (bool, [(True, True), (np.False_, False)], [0, 1, "yes", None, np.int64(1), []]),
    (str, [("", ""), ("a\0", "a\0")], [None, 3, b"a", Path("a"), ["a"], "\ud800"]),
    (bytes, [(b"a", b"a"), (bytearray(b"a"), b"a")], ["a", None, 3, [1]]),
    (Path, [("a", Path("a")), (Path("a"), Path("a"))], ["", "a\0", "\ud800", None, b"a", 3]),
    (str | Path, [("a//b", "a//b"), (Path("a"), Path("a"))], ["", "a\0", 3, None, ["a"]]),
    (int | None, [(None, None), (3, 3)], [2.5, True, "a"]),
    (Literal["best", "last"], [("best", "best")], ["worst", "", None, 3, ["best"], np.arange(2)]),
    (float | Literal["fit"], [("fit", "fit"), (1, 1)], ["fix", True, None]),
    (Sequence[str], [("ab", ["ab"]), (("a", "b"), ["a", "b"])], [3, None, b"ab", ["a", 3], {1: 2}]),
    (tuple[int, ...], [([1, 2], (1, 2)), (np.arange(2), (0, 1)), (range(2), (0, 1))], [1, "1"]),
    (tuple[tuple[int, float], ...], [({2: 1}, ((2, 1),))], [{2.0: 1}, [[1]], [[1, 2, 3]], 3]),
    (str | Path | Sequence[str | Path], [("a", "a"), (["a"], ["a"])], ["", [""], [3], 3, None]),
    (Callable[[], None], [(len, len)], [3, "len", None]),
    (Any, [(3, 3), (None, None)], []),
]


def taking(kind: Any) -> Callable[..., Any]:
    def take(value):
        return value

    take.__annotations__["value"] = kind
    return checked(take)


def test_a_value_is_converted_to_the_annotated_type_or_refused_in_one_line():
    for kind, accepted, refused in CASES:
        take = taking(kind)
        for given, expected in accepted:
            value = take(given)
            assert value == expected and type(value) is type(expected), (kind, given)
        for given in refused:
            with pytest.raises(OptionError, match=r"\Avalue: must be [^\n]*, got [^\n]+\Z"):
                take(given)
                pytest.fail(f"{given!r} is accepted as {kind}")


def test_the_message_names_the_types_and_the_element_that_is_wrong():
    for kind, value, message in [
        (int | None, 2.5, "must be a whole number, got 2.5"),
        (str | Path | Sequence[str | Path], 3, "must be a path or a list of paths, got 3"),
        (tuple[str, ...], ["a", 3], "must be a text, got 3"),
        (Literal["train", "valid", "test"], "dev", "must be train, valid or test, got 'dev'"),
        (tuple[tuple[int, float], ...], {2.0: 1}, "must be a whole number, got 2.0"),
        (int, None, "must be a whole number, got None"),
    ]:
        with pytest.raises(OptionError) as caught:
            taking(kind)(value)
        assert str(caught.value) == f"value: {message}"


def test_an_iterator_is_read_once_and_arrives_as_a_list():
    assert taking(Iterable[int])(each for each in (1, 2)) == [1, 2]


def test_a_dataclass_and_keywords_are_checked_and_other_mistakes_keep_the_error_of_python():
    @checked
    @dataclass(frozen=True)
    class Options:
        count: int = 1
        unseen: "os_of_the_type_checker" = None  # type: ignore[name-defined]  # noqa: F821

    assert Options(count=np.int16(3)).count == 3 and Options(unseen=len).unseen is len
    with pytest.raises(OptionError, match=r"^count: must be a whole number, got 1\.5$"):
        Options(1.5)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'other'"):
        Options(other=3)

    @checked
    def budget(**amounts: float | None) -> dict[str, float | None]:
        return amounts

    assert budget(minutes=np.float64(2), steps=None) == {"minutes": 2, "steps": None}
    with pytest.raises(OptionError, match=r"^minutes: must be a number, got 'long'$"):
        budget(minutes="long")


def test_a_count_is_a_number_from_1_to_a_thousand_million():
    check_counts(first=1, second=10**9, third=None)
    for value in (0, 10**9 + 1):
        with pytest.raises(OptionError, match=rf"^length: must be at .*got {value}$"):
            check_counts(length=value)


def test_a_path_of_another_library_is_a_path(tmp_path):
    class Entry:
        def __fspath__(self) -> str:
            return os.fspath(tmp_path)

    assert taking(str | Path)(Entry()) == tmp_path
