"""What is searched: text such as `1e-3..3e-2` or `256,512` → a range or choices, checked against the configuration."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import yaml

from charlm.config.load import check_config
from charlm.config.schema import BUDGETS
from charlm.errors import ConfigError

_NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
_LOG_FACTOR = 10  # A range whose ends are so far apart is searched by its logarithm.
_NOT_SEARCHED = {
    "corpus": "losses on different texts do not compare; tune on each text apart",
    "tokenizer": "losses a token of different tokenizers do not compare; tune with each apart, by --set",
    **{
        f"training.{name}": "a trial's budget is the same for all; give it by --set"
        for name in BUDGETS
    },
}


@dataclass(frozen=True)
class Range:
    """Numbers between two, both of them included; whole ones where both are."""

    low: float
    high: float

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """Return the value of `key` for a trial."""
        is_log = self.low > 0 and self.high / self.low >= _LOG_FACTOR
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=is_log)
        return trial.suggest_float(key, self.low, self.high, log=is_log)


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    texts: tuple[str, ...]  # JSON: Optuna's choices are plain, and hold 1 and true for the same.

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """Return the value of `key` for a trial."""
        return json.loads(trial.suggest_categorical(key, self.texts))


def read_space(key: str, text: str, data: Mapping[str, Any]) -> Range | Choices:
    """Return what `text` says is searched for `key`, its ends or choices checked."""
    place = f"--search {key}={text}"
    for name, reason in _NOT_SEARCHED.items():
        if key == name or key.startswith(f"{name}."):
            raise ConfigError(f"{place}: cannot be searched: {reason}")

    def check(value: Any) -> None:
        check_config(with_values(data, {key: value}), place)

    if match := re.fullmatch(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})", text):
        low, high = map(_number, match.groups())
        if not low < high:
            raise ConfigError(f"{place}: must rise from its first number to its second")
        check(low)
        check(high)
        if isinstance(low, int) and isinstance(high, int):
            try:  # Does the field take whole numbers alone?
                check(low + 0.5)
            except ConfigError:
                return Range(low, high)
        return Range(float(low), float(high))
    return _choices(text, place, check)


def _choices(text: str, place: str, check: Callable[[Any], object]) -> Choices:
    try:
        read = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        raise ConfigError(
            f"{place}: is neither a range, as in 0..0.5, nor choices, as in 256,512"
        ) from None
    values = [
        _number(value) if isinstance(value, str) and re.fullmatch(_NUMBER, value) else value
        for value in read
    ]
    for value in values:
        check(value)
    texts = tuple(dict.fromkeys(map(json.dumps, values)))
    if len(texts) < 2:
        raise ConfigError(
            f"{place}: is one value; give a range or several choices, or fix it by --set"
        )
    return Choices(texts)


def _number(text: str) -> float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def with_values(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with each dotted key's value put in its place."""
    data = dict(data)
    for dotted, value in values.items():
        key, _, rest = dotted.partition(".")
        inner = data.get(key)
        data[key] = (
            with_values(inner if isinstance(inner, dict) else {}, {rest: value}) if rest else value
        )
    return data


def as_it_stands(data: Mapping[str, Any], spaces: Mapping[str, Range | Choices]) -> dict[str, Any]:
    """Return the configuration's own values as Optuna's parameters, where they lie within what is searched."""

    def value(key: str, **changes: Any) -> Any:
        found: Any = check_config(with_values(data, changes), key).model_dump(mode="json")
        for part in key.split("."):
            found = found[part]
        return (
            found[0] if isinstance(found, list) and len(found) == 1 else found
        )  # [512] is written 512.

    parameters: dict[str, Any] = {}
    for key, space in spaces.items():
        own = value(key)
        if isinstance(space, Range):
            if isinstance(own, int | float) and space.low <= own <= space.high:
                parameters[key] = own
        elif same := [text for text in space.texts if value(key, **{key: json.loads(text)}) == own]:
            parameters[key] = same[0]
    return parameters
