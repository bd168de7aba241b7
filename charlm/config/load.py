"""Read a YAML file, apply overrides, and report every mistake at once."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from charlm.config.annotations import fields_of, is_list, value_types
from charlm.config.cell import as_cell
from charlm.config.mistakes import describe_mistakes
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.training import BUDGETS
from charlm.config.values import checked
from charlm.errors import ConfigError, OptionError
from charlm.storage.arguments import utf8_argument
from charlm.storage.untrusted import MEGABYTE, parse_yaml, read_regular_file

# Options of earlier versions, by section and key: the default, which is ignored so that old files
# load, and the value that is refused.
_REMOVED: dict[tuple[str, str], tuple[object, object]] = {
    ("training", "gradient_compression"): ("none", "powersgd"),
    ("training", "shard_optimizer"): (False, True),
}
_WHY_REMOVED = "was removed, because models of a few million weights gain nothing from it"
# Fields that run folders of earlier versions lack, by section and key, and the value that stands
# for what those versions did: a run keeps the rules that it was begun with.
_EARLIER_RULES: dict[tuple[str, str], object] = {
    ("corpus", "copies"): "apart",
    ("corpus", "record"): "line",
    ("corpus", "rules"): 1,
    ("training", "restart_windows"): 0,
}

Keys = tuple[str, ...]
# Fields that are text, which --set takes as written, and those among them that are lists.
_TEXT = {keys: kind for keys, kind in fields_of(Config) if value_types(kind) <= {str, NoneType}}
_TEXT_LISTS = {keys for keys, kind in _TEXT.items() if is_list(kind)}
_PATHS = {*_TEXT_LISTS, ("model", "vectors")}
_ESCAPED = {("corpus", "separator")}
# Fields in which words such as `no` stay words: texts, choices, and the name of a cell.
_WORDS = {
    ("model", "cell"),
    *(keys for keys, kind in fields_of(Config) if value_types(kind) <= {str, Literal, NoneType}),
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "\\": "\\"}

AnyConfig = TypeVar("AnyConfig", bound=Config)


def shipped(folder: str) -> Path:
    """Return the folder of the shipped `configs` or `corpora`.

    It is inside an installed package, or at the top of the repository.
    """
    package = Path(__file__).parents[1]
    inside = package / "shipped" / folder
    return inside if inside.is_dir() else package.parent / folder


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    r"""Read a configuration file, apply `section.key=value` overrides, and check the result.

    The value of an override is YAML, but a text field takes it as written, even `###` or `no`.
    There `null` clears the field, and quotes are left out: `"null"` is the word. In
    `corpus.separator`, \n, \t, \r, \f, \v, \xNN, \uNNNN and \\ are escapes.

    Args:
        path: YAML file, or the name of a shipped configuration, such as `quickstart`; None for
            the defaults.
        overrides: Changes such as `model.hidden_size=256`. Of two changes of one key, the later
            one applies.

    Raises:
        ConfigError: The file is missing or not YAML, or some keys or values are wrong; the message
            describes all of them.
        OptionError: An override is not of the form section.key=value.
    """
    place, data = ("overrides", {}) if path is None else _read(_find(path))
    if overrides:
        changed = override(data, overrides)
        try:
            return check_config(changed, "overrides")
        except ConfigError:
            check_config(data, place)  # The mistakes may be those of the file.
            raise
    return check_config(data, place)


def load_resolved(path: Path) -> ResolvedConfig:
    """Read the configuration of a run folder, in which every field has a value.

    Fields that did not exist when the run was begun get the value of `_EARLIER_RULES`.

    Raises:
        ConfigError: As for `load_config`.
    """
    place, data = _read(path)
    for (section, key), earlier in _EARLIER_RULES.items():
        if isinstance(values := data.get(section), dict):
            data[section] = {key: earlier} | values
    return check_resolved(data, place)


def check_config(data: Mapping[str, Any], place: str) -> Config:
    """Return `data` as a configuration.

    Args:
        data: Sections, by name.
        place: Source of the data, for the message.

    Raises:
        ConfigError: One line with every mistake: its key and, for an unknown key, the nearest one.
    """
    return _check(data, place, Config)


def check_resolved(data: Mapping[str, Any], place: str) -> ResolvedConfig:
    """Return `data` as a configuration in which every field has a value.

    Raises:
        ConfigError: As for `check_config`; a missing value is a mistake too.
    """
    return _check(data, place, ResolvedConfig)


def change_config(config: Config, overrides: Sequence[str]) -> Config:
    """Return a configuration with `section.key=value` overrides applied.

    Raises:
        ConfigError: As for `check_config`.
        OptionError: An override is not of the form section.key=value.
    """
    data = config.model_dump(mode="json", exclude_unset=True)
    return check_config(override(data, overrides), "overrides")


def _check(data: Mapping[str, Any], place: str, kind: type[AnyConfig]) -> AnyConfig:
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
    """Return `data` with every `section.key=value` applied.

    Raises:
        OptionError: An override is not of this form, or its value is not YAML.
    """
    data = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for change in [overrides] if isinstance(overrides, str) else overrides:
        section, keys, value = _parse_override(change)
        values = data.get(section) or {}
        if not isinstance(values, dict):
            raise OptionError(
                "overrides", f"{section} is not a section, but {values!r}", value=change
            )
        # One budget replaces another; null clears only its own field.
        if section == "training" and keys[0] in BUDGETS and value is not None:
            values = {name: kept for name, kept in values.items() if name not in BUDGETS}
        data[section] = values | _nested(keys, value, values)
    return data


def _parse_override(change: str) -> tuple[str, list[str], object]:
    """Return the section, the keys below it and the value of `section.key=value`."""
    dotted, equals, text = change.partition("=") if isinstance(change, str) else ("", "", "")
    section, *keys = dotted.strip().split(".")
    if not (equals and section and keys and all(keys)):
        problem = "must be section.key=value, as in model.hidden_size=256"
        raise OptionError("overrides", problem, value=change)
    try:
        return section, keys, _parse_value((section, *keys), text)
    except ValueError as error:
        raise OptionError("overrides", f"{dotted.strip()}: {error}", value=change) from None


def _parse_value(keys: Keys, text: str) -> object:
    """Return the value that an override gives to a field.

    Raises:
        ValueError: The value is not YAML, or an escape is unknown.
    """
    if keys not in _PATHS:
        text = utf8_argument(text)
    if keys in _TEXT:
        return _text_value(keys, text)
    inner = {known[len(keys) :] for known in _WORDS if known[: len(keys)] == keys}
    try:
        value = parse_yaml(text, text_keys=inner)
    except ValueError as error:
        problem = str(error).removesuffix(" (line 1)")
        raise ValueError(f"the value is not YAML that charlm accepts: {problem}") from None
    if value is None and text.strip().lower() not in ("null", "~"):
        raise ValueError("has no value; write null to clear the setting")
    return value


def _text_value(keys: Keys, text: str) -> object:
    """Return the value of a text field: as written, unless it is null, in quotes or a list."""
    if text == "null":
        return None
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    if is_quoted or (keys in _TEXT_LISTS and text.startswith("[") and text.endswith("]")):
        return parse_yaml(text, text_keys={()})
    return (
        re.sub(r"\\(x[\da-fA-F]{2}|u[\da-fA-F]{4}|.?)", _unescape, text)
        if keys in _ESCAPED
        else text
    )


def _unescape(escape: re.Match[str]) -> str:
    code = escape[1]
    if len(code) > 1:
        return chr(int(code[1:], 16))
    if code not in _ESCAPES:
        raise ValueError(f"{escape[0]} is not an escape; write \\\\ for a backslash")
    return _ESCAPES[code]


def _nested(keys: Sequence[str], value: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return {key: value}, or {key: {inner key: value}}, keeping the other inner keys."""
    key, *inner_keys = keys
    if not inner_keys:
        return {key: value}
    inner = as_cell(values.get(key))
    return {key: (inner if isinstance(inner, dict) else {}) | _nested(inner_keys, value, {})}


@checked
def _find(path: str | Path) -> Path:
    """Return the file `path`, or the shipped configuration of that name."""
    path = Path(path)
    if path.is_file():
        return path
    named = shipped("configs") / f"{path.stem}.yaml"
    if path.parent in (Path(), Path("configs")) and named.is_file():
        return named
    if (path / "config.yaml").is_file():
        raise ConfigError(f"{path}: is a run folder; did you mean {path / 'config.yaml'}?")
    names = sorted(known.stem for known in shipped("configs").glob("*.yaml"))
    near = difflib.get_close_matches(path.stem, names, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"charlm ships {', '.join(names)}"
    raise ConfigError(f"{path}: no such configuration file; {remedy}")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the path, for messages, and the sections of a YAML file."""
    try:
        text = read_regular_file(path, max_bytes=MEGABYTE).decode()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    try:
        data = parse_yaml(text, text_keys=_WORDS)
    except ValueError as error:
        raise ConfigError(f"{path}: is not YAML that charlm accepts: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise ConfigError(
            f"{path}: must contain sections such as model: and training:, got {str(data)[:40]!r}"
        )
    return str(path), data or {}
