"""Write a configuration as YAML with a comment for each field."""

from collections.abc import Iterator

import yaml

from charlm.config.schema import Config, Section


def dump(config: Config) -> str:
    """Return `config` as YAML with a comment a field, ready to be saved and used."""
    return "\n".join(_lines(config, depth=0)) + "\n"


def _lines(section: Section, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name in section.fields_shown():
        value, field = getattr(section, name), type(section).model_fields[name]
        if isinstance(value, Section):
            yield f"{indent}{name}:  # {field.description}"
            yield from _lines(value, depth + 1)
        else:
            yield f"{indent}{name}: {_scalar(value)}  # {field.description}"


def _scalar(value: object) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, list) and len(plain) == 1:
        (plain,) = plain
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**9, allow_unicode=False)
    return text.removesuffix("\n").removesuffix("\n...")
