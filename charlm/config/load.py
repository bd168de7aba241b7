"""Read a YAML file, apply overrides, and report every mistake at once."""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from charlm.config.schema import BUDGETS, Config, ResolvedConfig, _as_cell
from charlm.errors import ConfigError
from charlm.storage.untrusted import MEGABYTE, one_line, parse_yaml, read_regular_file

_MISTAKES_TOLD = 20

# Options of earlier versions, by section and key: the default, which is ignored so that old files
# load, and the value that is refused.
_REMOVED: dict[tuple[str, str], tuple[object, object]] = {
    ("training", "gradient_compression"): ("none", "powersgd"),
    ("training", "shard_optimizer"): (False, True),
}
_WHY_REMOVED = "was removed, because models of a few million weights gain nothing from it"

AnyConfig = TypeVar("AnyConfig", bound=Config)


def shipped(folder: str) -> Path:
    """Return the folder of shipped `configs` or `corpora`: inside an installed package, or of the checkout."""
    package = Path(__file__).parents[1]
    inside = package / "shipped" / folder
    return inside if inside.is_dir() else package.parent / folder


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration file, apply `section.key=value` overrides, and check the whole.

    Args:
        path: A YAML file; the name of a shipped config, such as `quickstart`; None for the defaults alone.
        overrides: Such as `model.hidden_size=256`; the value is read as YAML; a later one wins.

    Raises:
        ConfigError: The file is missing or no YAML, or some keys or values are wrong: all of them are told.
    """
    place, data = ("defaults", {}) if path is None else _read(_find(Path(path)))
    return check_config(override(data, overrides), place)


def load_resolved(path: Path) -> ResolvedConfig:
    """Read the configuration of a run folder, in which nothing is open.

    Raises:
        ConfigError: As for `load_config`.
    """
    place, data = _read(path)
    return check_resolved(data, place)


def check_config(data: Mapping[str, Any], place: str) -> Config:
    """Return `data` as a configuration.

    Raises:
        ConfigError: One line with every mistake: its key and, for an unknown key, the nearest one.
    """
    return _checked(data, place, Config)


def check_resolved(data: Mapping[str, Any], place: str) -> ResolvedConfig:
    """Return `data` as a configuration in which nothing is open.

    Raises:
        ConfigError: As for `check_config`; a field that is left open is a mistake too.
    """
    return _checked(data, place, ResolvedConfig)


def _checked(data: Mapping[str, Any], place: str, kind: type[AnyConfig]) -> AnyConfig:
    data, mistakes = _without_removed(data)
    try:
        config = kind.model_validate(data)
    except ValidationError as error:
        mistakes.append(describe_mistakes(error, kind))
    if mistakes:
        raise ConfigError(f"{place}: {'; '.join(mistakes)}")
    return config


def _without_removed(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return `data` without the options in `_REMOVED`, and one mistake per refused value."""
    data, mistakes = dict(data), []
    for (section, key), (ignored, refused) in _REMOVED.items():
        values = data.get(section)
        if not isinstance(values, Mapping) or key not in values:
            continue
        if values[key] in (ignored, refused):
            data[section] = {name: value for name, value in values.items() if name != key}
        if values[key] == refused:
            mistakes.append(
                f"{section}.{key}: {str(refused).lower()} {_WHY_REMOVED}; remove the line"
            )
    return data, mistakes


def override(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with each `section.key=value` put in its place.

    Raises:
        ConfigError: One has another form, or its value is not YAML.
    """
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for change in overrides:
        dotted, equals, text = change.partition("=")
        section, dot, key = dotted.strip().partition(".")
        if not (equals and dot and key):
            raise ConfigError(
                f"--set {change}: must be section.key=value, as in model.hidden_size=256"
            )
        values = data.get(section) or {}
        if not isinstance(values, dict):
            raise ConfigError(f"--set {change}: {section} is no section here, but {values!r}")
        if section == "training" and key in BUDGETS:  # One budget takes another's place.
            values = {name: value for name, value in values.items() if name not in BUDGETS}
        data[section] = values | _nested(key.split("."), _parse(text, change), values)
    return data


def describe_mistakes(error: ValidationError, model: type[BaseModel]) -> str:
    """Return every mistake that pydantic found in data for `model`, in one line; of very many, the first."""
    told = list(islice(_mistakes(error, model), _MISTAKES_TOLD))
    more = error.error_count() - len(told)
    return one_line("; ".join([*told, f"and {more} more"] if more else told))


def _find(path: Path) -> Path:
    """Return the file that `path` names: itself, or the shipped config of that name."""
    if path.is_file():
        return path
    named = shipped("configs") / f"{path.stem}.yaml"
    if path.parent in (Path(), Path("configs")) and named.is_file():
        return named
    names = sorted(known.stem for known in shipped("configs").glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"charlm ships {', '.join(names)}"
    raise ConfigError(f"{path}: no such configuration file; {hint}")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = read_regular_file(path, max_bytes=MEGABYTE).decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        data = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise ConfigError(
            f"{path}: must hold sections such as model: and training:, got {str(data)[:40]!r}"
        )
    return str(path), data or {}


def _parse(text: str, override: str) -> object:
    try:
        value: object = parse_yaml(text)
    except ValueError:
        raise ConfigError(f"--set {override}: the value is not YAML: {text!r}") from None
    return value


def _nested(keys: Sequence[str], value: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return {key: value} for `model.cell.kind=gru` too, keeping the other keys of an inner mapping."""
    key, *rest = keys
    if not rest:
        return {key: value}
    inner = _as_cell(values.get(key))
    return {key: (inner if isinstance(inner, dict) else {}) | _nested(rest, value, {})}


def _mistakes(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        location = tuple(part for part in detail["loc"] if isinstance(part, str))
        if detail["type"] == "extra_forbidden" and location:
            yield f"unknown key {'.'.join(location)}{_nearest(model, location)}"
        else:
            problem = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
            got = "" if detail["type"] == "value_error" else f", got {detail['input']!r:.60}"
            yield f"{'.'.join(location)} {problem}{got}".strip()


def _nearest(model: type[BaseModel], location: Sequence[str]) -> str:
    """Return the hint for an unknown key: the nearest key of its section, or the same key of another."""
    here = _section(model, location[:-1])
    near = difflib.get_close_matches(location[-1], here.model_fields, n=1)
    if near:
        return f" (nearest: {'.'.join((*location[:-1], near[0]))})"
    everywhere = {
        f"{name}.{key}": key for name in model.model_fields for key in _fields(model, name)
    }
    homes = [dotted for dotted, key in everywhere.items() if key == location[-1]]
    if not homes:
        homes = [
            d
            for d, key in everywhere.items()
            if difflib.get_close_matches(location[-1], [key], cutoff=0.7)
        ]
    return f" (nearest: {homes[0]})" if homes else f" (known: {', '.join(here.model_fields)})"


def _fields(model: type[BaseModel], name: str) -> Iterator[str]:
    section = _inner(model.model_fields[name].annotation)
    return iter(section.model_fields) if section else iter(())


def _section(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    for name in location:
        inner = _inner(model.model_fields[name].annotation) if name in model.model_fields else None
        model = inner or model
    return model


def _inner(annotation: object) -> type[BaseModel] | None:
    """Return the section that a field holds, if it holds one."""
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return next((inner for inner in map(_inner, get_args(annotation)) if inner), None)
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )
