"""Plain messages for the errors that pydantic finds in data from outside."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from charlm.config.annotations import section_type
from charlm.errors import counted
from charlm.storage.untrusted import one_line

_FIELDS = re.compile(r"\w+(?: and \w+)*: ")
_MAX_MISTAKES = 20
_SIMILARITY = 0.7  # A key of another section is suggested if it is at least this similar.


def _plain(limit: float) -> float:
    return int(limit) if float(limit).is_integer() else limit


# What a value must be, by the type of pydantic's error and its context.
_REQUIREMENTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "bool_parsing": lambda context: "must be true or false",
    "bool_type": lambda context: "must be true or false",
    "dict_type": lambda context: "must be a mapping of keys to values",
    "finite_number": lambda context: "must be a finite number",
    "float_parsing": lambda context: "must be a number",
    "float_type": lambda context: "must be a number",
    "greater_than": lambda context: f"must be greater than {_plain(context['gt'])}",
    "greater_than_equal": lambda context: f"must be at least {_plain(context['ge'])}",
    "int_from_float": lambda context: "must be an integer",
    "int_parsing": lambda context: "must be an integer",
    "int_parsing_size": lambda context: "must be a smaller integer",
    "int_type": lambda context: "must be an integer",
    "leading_zero": lambda context: "must be a number without leading zeros",
    "less_than": lambda context: f"must be less than {_plain(context['lt'])}",
    "less_than_equal": lambda context: f"must be at most {_plain(context['le'])}",
    "list_type": lambda context: "must be a list",
    "literal_error": lambda context: f"must be {context['expected']}",
    "missing": lambda context: "is missing",
    "model_attributes_type": lambda context: "must be a section of keys and values",
    "model_type": lambda context: "must be a section of keys and values",
    "not_a_number": lambda context: "must be a number",
    "not_a_scalar": lambda context: "must be text, a finite number, true, false or null",
    "none_required": lambda context: "must be null",
    "string_pattern_mismatch": lambda context: f"must match {context['pattern']}",
    "string_too_long": lambda context: (
        f"must have at most {counted(context['max_length'], 'character')}"
    ),
    "string_too_short": lambda context: (
        f"must have at least {counted(context['min_length'], 'character')}"
    ),
    "string_type": lambda context: "must be text",
    "string_unicode": lambda context: "must be valid Unicode",
    "too_long": lambda context: f"must have at most {counted(context['max_length'], 'element')}",
    "too_short": lambda context: f"must have at least {counted(context['min_length'], 'element')}",
    "tuple_type": lambda context: "must be a list",
    "value_error": lambda context: str(context["error"]),
}


def describe_mistakes(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the mistakes that pydantic found in the data of `model`, in one line.

    Of more than 20 mistakes, only the first 20 are described.
    """
    shown = list(islice(_mistakes(error, model), _MAX_MISTAKES))
    num_hidden = error.error_count() - len(shown)
    return one_line("; ".join([*shown, f"and {num_hidden} more"] if num_hidden else shown))


def describe_problem(detail: ErrorDetails) -> str:
    """Return what a value must be and, if the message does not contain it yet, the value."""
    kind = detail["type"]
    if kind not in _REQUIREMENTS:
        return f"is not valid ({kind}), got {detail['input']!r:.60}"
    requirement = _REQUIREMENTS[kind](detail.get("ctx", {}))
    has_value = kind in ("value_error", "missing")
    return requirement if has_value else f"{requirement}, got {detail['input']!r:.60}"


def _mistakes(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        location = tuple(part for part in detail["loc"] if isinstance(part, str))
        if detail["type"] == "extra_forbidden" and location:
            yield f"unknown key {'.'.join(location)}{_suggestion(model, location)}"
        else:
            problem = describe_problem(detail)
            # The message of a validator of a section begins with the names of fields.
            is_of_section = detail["type"] == "value_error" and _FIELDS.match(problem)
            separator = "." if is_of_section else ": "
            yield separator.join([*filter(None, [".".join(location)]), problem])


def _suggestion(model: type[BaseModel], location: Sequence[str]) -> str:
    """Return a hint for an unknown key: the nearest key in its section or in another one."""
    *sections, unknown = location
    known = _section(model, sections).model_fields
    if near := difflib.get_close_matches(unknown, known, n=1):
        return f" (nearest: {'.'.join((*sections, near[0]))})"
    elsewhere = [(name, key) for name in model.model_fields for key in _keys(model, name)]
    same = [f"{name}.{key}" for name, key in elsewhere if key == unknown]
    similar = [f"{name}.{key}" for name, key in elsewhere if _is_similar(unknown, key)]
    if nearest := [*same, *similar]:
        return f" (nearest: {nearest[0]})"
    return f" (known: {', '.join(known)})"


def _is_similar(word: str, other: str) -> bool:
    return bool(difflib.get_close_matches(word, [other], cutoff=_SIMILARITY))


def _keys(model: type[BaseModel], name: str) -> Iterator[str]:
    section = section_type(model.model_fields[name].annotation)
    return iter(section.model_fields) if section else iter(())


def _section(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    """Return the section at `location`, as far as it exists."""
    for name in location:
        field = model.model_fields.get(name)
        model = (section_type(field.annotation) if field else None) or model
    return model
