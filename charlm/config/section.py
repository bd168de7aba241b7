"""What all sections of the configuration have in common."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from charlm.config.annotations import value_types
from charlm.errors import ConfigError
from charlm.storage.results import notebook_form

MAX_UNITS = 1 << 20  # A limit, so that an untrusted configuration cannot exhaust memory.
Fraction = Annotated[float, Field(ge=0, lt=1)]


def as_list(value: object) -> object:
    """Accept `a` for `[a]`."""
    return (value,) if isinstance(value, str | int | float) else value


class Section(BaseModel):
    """A frozen part of the configuration that rejects unknown keys.

    Its validators raise `ValueError("FIELD: problem, got VALUE; remedy")`; the name of the section
    is put before the field (charlm.config.mistakes).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def fields_shown(self) -> list[str]:
        """Return the names of the fields that are written."""
        return list(type(self).model_fields)

    def has_default(self, name: str) -> bool:
        """Return whether a field has its default."""
        default: Any = type(self).model_fields[name].default
        return bool(getattr(self, name) == default)

    def __setattr__(self, name: str, value: object) -> None:
        """Raise ConfigError; pydantic's own error has several lines."""
        raise ConfigError(
            f"{name}: a configuration cannot be changed; give other values to charlm.train, as in "
            'overrides=["model.hidden_size=256"], or to charlm.load_config'
        )

    def __str__(self) -> str:
        """Return the section as YAML with one comment per field; `load_config` reads it back."""
        return "\n".join(self._lines(depth=0))

    _repr_mimebundle_ = notebook_form

    def _lines(self, depth: int) -> Iterator[str]:
        indent = "  " * depth
        for name in self.fields_shown():
            value = getattr(self, name)
            comment = type(self).model_fields[name].description
            if isinstance(value, Section):
                yield f"{indent}{name}:  # {comment}"
                yield from value._lines(depth + 1)
            else:
                yield f"{indent}{name}: {_to_yaml(value)}  # {comment}"

    @model_validator(mode="before")
    @classmethod
    def _empty_section_has_defaults(cls, data: object) -> object:
        return {} if data is None else data

    @field_validator("*", mode="before")
    @classmethod
    def _number_is_what_it_seems(cls, value: object, info: ValidationInfo) -> object:
        """Refuse numbers that pydantic would convert: `yes` to 1, and 08 to 8."""
        kinds = value_types(cls.model_fields[str(info.field_name)].annotation)
        if kinds & {int, float} and bool not in kinds:
            for number in value if isinstance(value, list | tuple) else [value]:
                if isinstance(number, bool):
                    raise PydanticCustomError("not_a_number", "a truth value")
                if isinstance(number, str) and re.match(r"\s*[-+]?0[0-9_]", number):
                    raise PydanticCustomError("leading_zero", "a leading zero")
        return value


class SectionOfKinds(Section):
    """A section whose `kind` decides which other fields have an effect; abstract.

    Attributes:
        OPTIONS: Names of the options of each kind; those of other kinds are rejected.
    """

    OPTIONS: ClassVar[Mapping[str, tuple[str, ...]]]
    kind: str

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options of this kind."""
        return self.OPTIONS.get(self.kind, ())

    def fields_shown(self) -> list[str]:
        """Return `kind` and the names of its options."""
        return ["kind", *self.options]

    @model_validator(mode="after")
    def _has_only_options_of_its_kind(self) -> "SectionOfKinds":
        for owner, options in self.OPTIONS.items():
            for name in options:
                if owner != self.kind and not self.has_default(name):
                    raise ValueError(
                        f"{name}: is an option of {owner}, not of {self.kind}; remove it"
                    )
        return self


def _to_yaml(value: object) -> str:
    """Return a value as YAML in one line; a list of one element as the element."""
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, list) and len(plain) == 1:
        (plain,) = plain
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=False)
    return text.removesuffix("\n").removesuffix("\n...")
