"""Write a configuration as YAML with a comment for each field."""

from collections.abc import Iterator

import yaml

from charlm.config.schema import Config
from charlm.config.section import Section


def dump(config: Config) -> str:
    """Return `config` as YAML with one comment per field; `load_config` reads it back."""
    return "\n".join(_lines(config, depth=0)) + "\n"


def _lines(section: Section, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name in section.fields_shown():
        value = getattr(section, name)
        comment = type(section).model_fields[name].description
        if isinstance(value, Section):
            yield f"{indent}{name}:  # {comment}"
            yield from _lines(value, depth + 1)
        else:
            yield f"{indent}{name}: {_to_yaml(value)}  # {comment}"


def _to_yaml(value: object) -> str:
    """Return a value as YAML in one line; a list of one element as the element."""
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, list) and len(plain) == 1:
        (plain,) = plain
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=False)
    return text.removesuffix("\n").removesuffix("\n...")
