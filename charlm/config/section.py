"""What all sections of the configuration have in common."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from charlm.config.annotations import value_types

MAX_UNITS = 1 << 20  # So that an untrusted configuration cannot exhaust memory.
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
        """Return the names of the fields that `charlm.config.show` writes."""
        return list(type(self).model_fields)

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
