"""Types and ranges of the values that Python code gives: checked in one way for all options.

`checked` reads the types from the annotations, which are the only table of them. This module does
not import pydantic, so that the command line can check options before it loads anything.
"""

import functools
import inspect
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from charlm.errors import OptionError

MAX_COUNT = 10**9  # Upper limit of counts: a larger number is a typing error.
MAX_SEED = 2**63 - 1  # Largest seed that every generator accepts.
DEVICES = r"auto|cpu|cuda(:\d{1,3})?"  # Pattern of the names of devices.
Function = TypeVar("Function", bound=Callable[..., Any])
# Singular and plural of each type in messages; other types have their own names.
_NAMES: dict[object, tuple[str, str]] = {
    bool: ("True or False", "True or False"),
    bytes: ("bytes", "bytes"),
    float: ("a number", "numbers"),
    int: ("a whole number", "whole numbers"),
    str: ("a text", "texts"),
    Callable: ("a function", "functions"),
    Path: ("a path", "paths"),
}


class _MismatchError(Exception):
    """A value that is not of a type.

    Attributes:
        problem: What it must be.
        value: The value, or the one of its elements that is wrong.
    """

    def __init__(self, problem: str, value: object) -> None:
        super().__init__(problem, value)
        self.problem = problem
        self.value = value


def checked(function: Function) -> Function:
    """Return a function or dataclass that checks the types of its arguments before it is called.

    Whole numbers have at most 64 bits, other numbers are finite, and texts are Unicode.
    Scalars of numpy and torch become numbers of Python. An iterable becomes a list or a tuple, of
    which a single text or path is the only element; a mapping becomes pairs, where these are
    expected. Types that are imported only for the type checker are not checked.

    >>> checked(lambda length: length)(3)
    3

    Raises:
        OptionError: When the function is called: an argument has another type.
    """
    if isinstance(function, type):
        function.__init__ = checked(function.__init__)  # type: ignore[misc]
        return function
    signature = inspect.signature(function)

    @functools.cache  # Some types are defined after the function.
    def kinds() -> dict[str, Any]:
        return {name: _kind_of(each, function) for name, each in signature.parameters.items()}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own error names the function.
        for name, value in bound.arguments.items():
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                given = {key: _argument(key, each, kinds()[name]) for key, each in value.items()}
                bound.arguments[name] = given
            else:
                bound.arguments[name] = _argument(name, value, kinds()[name])
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


def check_at_least(minimum: float, **values: float | None) -> None:
    """Raise OptionError if a value is less than `minimum` or not finite; None is not checked."""
    for option, value in values.items():
        if value is not None and not minimum <= value < math.inf:
            raise OptionError(option, f"must be at least {minimum}", value=value)


def check_counts(**values: int | None) -> None:
    """Raise OptionError if a number is not between 1 and `MAX_COUNT`; None is not checked."""
    check_at_least(1, **values)
    for option, value in values.items():
        if value is not None and value > MAX_COUNT:
            raise OptionError(option, f"must be at most {MAX_COUNT:,}", value=value)


def check_fraction(**values: float | None) -> None:
    """Raise OptionError if a value is not between 0 and 1; None is not checked."""
    for option, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise OptionError(option, "must be between 0 and 1", value=value)


def check_magnitude(maximum: float, **values: float | None) -> None:
    """Raise OptionError if an absolute value is above `maximum`; None is not checked."""
    for option, value in values.items():
        if value is not None and not abs(value) <= maximum:
            raise OptionError(option, f"must be between -{maximum} and {maximum}", value=value)


def check_names(
    given: Iterable[str], known: Iterable[str], *, suggested: Iterable[str] = ()
) -> None:
    """Raise TypeError if a name is that of no option; the message has the nearest name.

    Args:
        given: Names that were given.
        known: Names of the options.
        suggested: Other names that the message may have.
    """
    options = set(known)
    for name in sorted(set(given) - options):
        near = get_close_matches(name, sorted(options.union(suggested)), n=1)
        raise TypeError(f"{name}: no such option{f' (nearest: {near[0]})' if near else ''}")


def plain(value: Any) -> Any:
    """Return a scalar of numpy or torch as a number of Python, and any other value as it is."""
    is_scalar = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_scalar else value


def _kind_of(parameter: inspect.Parameter, function: Callable[..., Any]) -> Any:
    """Return the type of a parameter; Any if it is not annotated or only for the type checker."""
    if parameter.annotation is parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"value": parameter.annotation})
    try:
        return get_type_hints(holder, inspect.unwrap(function).__globals__)["value"]
    except NameError:
        return Any


def _argument(option: str, value: object, kind: Any) -> Any:
    try:
        return _convert(value, kind)
    except _MismatchError as error:
        shown = error.value
        problem = f"{error.problem}, got None" if shown is None else error.problem
        raise OptionError(option, problem, value=shown) from None


def _convert(value: Any, kind: Any) -> Any:
    """Return a value as a type has it.

    Raises:
        _MismatchError: It is not of the type.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any or isinstance(kind, TypeVar):
        return value
    if origin in (Union, UnionType):
        return _convert_to_one(value, kind, parts)
    if origin is Literal:
        fits = isinstance(value, str) and value in parts
    elif origin is tuple and parts[-1] is not Ellipsis:
        elements = _elements(value, kind)
        if fits := len(elements) == len(parts):
            return tuple(map(_convert, elements, parts))
    elif _is_list(origin):
        elements = [_convert(each, parts[0]) for each in _elements(value, kind)]
        return tuple(elements) if origin is tuple else elements
    elif kind in _CONVERTERS:
        return _CONVERTERS[kind](value)
    else:
        fits = isinstance(value, origin or kind)
    return value if fits else _refuse(value, kind)


def _convert_to_one(value: Any, kind: Any, parts: tuple[Any, ...]) -> Any:
    """Return a value as the first of several types that it has."""
    errors = []
    # A name of a file is kept as it was written: a URL is no path.
    is_name = Path in parts and str in parts and isinstance(value, str)
    for part in parts:
        if is_name and part is str:
            continue
        try:
            converted = _convert(value, part)
            return value if is_name and part is Path else converted
        except _MismatchError as error:
            errors.append(error)
    # An element that is wrong, or a reason, says more than the names of all types.
    usual = {_must_be(part) for part in parts}
    raise next(
        (error for error in errors if error.value is not value or error.problem not in usual),
        _MismatchError(_must_be(kind), value),
    )


def _is_list(origin: Any) -> bool:
    """Return whether a type without its parameters is that of several values."""
    return origin in (tuple, list, Sequence, Iterable)


def _elements(value: Any, kind: Any) -> list[Any]:
    if isinstance(value, str | Path):
        return [value]
    if isinstance(value, Mapping) and get_origin(get_args(kind)[0]) is tuple:
        return list(value.items())
    # A configuration can be iterated, but has no length.
    is_iterable = isinstance(value, Collection | Iterator) and plain(value) is value
    if isinstance(value, bytes | Mapping) or not is_iterable:
        _refuse(value, kind)
    return list(value)


def _to_whole_number(value: Any) -> int:
    number: int = plain(value)
    if not isinstance(number, int) or isinstance(number, bool):
        _refuse(value, int)
    if abs(number) > MAX_SEED:
        raise _MismatchError("must be between -2^63 and 2^63", number)
    return number


def _to_number(value: Any) -> float:
    number: float = plain(value)
    if not isinstance(number, int | float) or isinstance(number, bool):
        _refuse(value, float)
    if not abs(number) < 1 << 1023:
        raise _MismatchError("must be a finite number", number)
    return number if abs(number) <= MAX_SEED else float(number)


def _to_bool(value: Any) -> bool:
    truth = plain(value)
    return truth if isinstance(truth, bool) else _refuse(value, bool)


def _to_text(value: Any) -> str:
    text: str = value if isinstance(value, str) else _refuse(value, str)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"must be Unicode, but character {error.start} is half of a surrogate pair"
        raise _MismatchError(problem, value) from None
    return text


def _to_path(value: Any) -> Path:
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str):
        _refuse(value, Path)
    try:
        is_possible = bool(name) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise _MismatchError("must be a path that is not empty, in Unicode without zeros", value)
    return Path(name)


def _to_bytes(value: Any) -> bytes:
    is_bytes = isinstance(value, bytes | bytearray | memoryview)
    return bytes(value) if is_bytes else _refuse(value, bytes)


_CONVERTERS: Mapping[Any, Callable[[Any], Any]] = {
    bool: _to_bool,
    bytes: _to_bytes,
    float: _to_number,
    int: _to_whole_number,
    str: _to_text,
    Path: _to_path,
}


def _refuse(value: object, kind: Any) -> Any:
    raise _MismatchError(_must_be(kind), value)


def _must_be(kind: Any) -> str:
    return f"must be {_describe(kind)}"


def _describe(kind: Any, *, plural: bool = False) -> str:
    """Return the name of a type in a message: `a whole number`, or `a list of texts or paths`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        left_out = {NoneType, str} if Path in parts else {NoneType}  # A text can name a path.
        return _join([_describe(part, plural=plural) for part in parts if part not in left_out])
    if origin is Literal:
        return _join([str(part) for part in parts])
    if origin is tuple and parts[-1] is not Ellipsis:
        names = " and ".join(_describe(part) for part in parts)
        return f"pairs of {names}" if plural else f"a pair of {names}"
    if _is_list(origin):
        return f"{'lists' if plural else 'a list'} of {_describe(parts[0], plural=True)}"
    name = getattr(kind, "__name__", str(kind))
    return _NAMES.get(origin or kind, (f"a {name}", f"{name} objects"))[plural]


def _join(names: list[str]) -> str:
    *first, last = dict.fromkeys(names)
    return f"{', '.join(first)} or {last}" if first else last
