"""Commands whose options are the fields of a dataclass."""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Arguments = TypeVar("Arguments")
Result = TypeVar("Result")


def options_from(
    kind: type[Arguments],
) -> Callable[[Callable[[Arguments], Result]], Callable[..., Result]]:
    """Make a command of a function whose argument is a dataclass: each field is an option.

    Args:
        kind: The dataclass. The types of its fields are `Annotated` for typer.

    Returns:
        A decorator. Typer reads the options of a command from its signature, so the decorated
        function has that of the dataclass.
    """

    def decorate(function: Callable[[Arguments], Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def command(**values: Any) -> Result:
            return function(kind(**values))

        command.__signature__ = inspect.signature(kind)  # type: ignore[attr-defined]
        return command

    return decorate


def given_options(
    arguments: "DataclassInstance", names: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return the options that differ from their defaults, by name.

    Args:
        arguments: The arguments of a command.
        names: Options to return, in this order; None for all.
    """
    defaults = {field.name: field.default for field in fields(arguments)}
    values = {name: getattr(arguments, name) for name in names or defaults}
    return {name: value for name, value in values.items() if value != defaults[name]}
