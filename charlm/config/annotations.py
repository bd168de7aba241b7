"""What the fields of a model may contain, read from their type annotations."""

import types
from collections.abc import Iterator
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import BaseModel


def value_types(annotation: object) -> set[object]:
    """Return the types of the single values in a field, also within lists.

    Literal stands for a choice of texts.

    >>> sorted(kind.__name__ for kind in value_types(tuple[int, ...] | None))
    ['NoneType', 'int']
    """
    if get_origin(annotation) is Literal:
        kinds = set(map(type, get_args(annotation)))
        return {Literal} if kinds == {str} else set(kinds)
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        parts = parts[:1]
    if not parts:
        return {annotation}
    return {kind for part in parts if part is not Ellipsis for kind in value_types(part)}


def is_list(annotation: object) -> bool:
    """Return whether a field holds several values."""
    return get_origin(annotation) is tuple or any(map(is_list, get_args(annotation)))


def section_type(annotation: object) -> type[BaseModel] | None:
    """Return the section in the type of a field, or None."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return next(filter(None, map(section_type, get_args(annotation))), None)
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None  # type: ignore[return-value]


def fields_of(model: type[BaseModel]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield the keys and the type of every field, also of those within sections."""
    for name, field in model.model_fields.items():
        section = section_type(field.annotation)
        if section is None:
            yield (name,), field.annotation
        else:
            yield from (((name, *keys), kind) for keys, kind in fields_of(section))
