"""Search spaces: text such as `1e-3..3e-2` or `256,512` becomes a range or choices."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from charlm.config.annotations import fields_of, value_types
from charlm.config.load import check_config
from charlm.config.schema import Config
from charlm.config.training import BUDGETS
from charlm.errors import ConfigError, OptionError
from charlm.storage.untrusted import parse_yaml

_NUMBER = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
_LOG_FACTOR = 10  # A range with this ratio of its ends is searched on a logarithmic scale.
_NOT_SEARCHED = {
    "corpus": "losses on different texts are not comparable; run one search per text",
    "tokenizer": "losses per token of different tokenizers are not comparable; "
    "run one search per tokenizer",
    **{
        f"training.{name}": "all trials have the same budget; set it in the configuration"
        for name in BUDGETS
    },
}
_TYPES = {".".join(keys): value_types(kind) for keys, kind in fields_of(Config)}


@dataclass(frozen=True)
class Range:
    """Numbers between two limits, both included; integers if both limits are integers.

    Attributes:
        low: Lowest value.
        high: Highest value.
    """

    low: float
    high: float

    @property
    def is_log(self) -> bool:
        """Whether the range is searched on a logarithmic scale."""
        return self.low > 0 and self.high / self.low >= _LOG_FACTOR

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """Return the value of `key` for a trial."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.is_log)
        return trial.suggest_float(key, self.low, self.high, log=self.is_log)

    def position(self, value: float) -> float:
        """Return the place of a value on the scale of the search: 0 is `low`, 1 is `high`."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def value_at(self, position: float) -> float:
        """Return the value at a place on the scale, which may be below 0 or above 1.

        An integer is rounded away from the range.
        """
        value = self.low + position * (self.high - self.low)
        if self.is_log:
            value = self.low * (self.high / self.low) ** position
        if isinstance(self.low, int) and isinstance(self.high, int):
            return math.floor(value) if position < 0 else math.ceil(value)
        return value


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        texts: The values as JSON, because Optuna's choices are scalars and 1 equals true there.
    """

    texts: tuple[str, ...]

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """Return the value of `key` for a trial."""
        return json.loads(trial.suggest_categorical(key, self.texts))

    def as_range(self) -> Range | None:
        """Return the range from the lowest to the highest of three or more numbers, else None."""
        values = [json.loads(text) for text in self.texts]
        are_numbers = all(type(value) in (int, float) for value in values)
        return Range(min(values), max(values)) if are_numbers and len(values) >= 3 else None


Space = Range | Choices


def parse_search(text: str) -> tuple[str, str]:
    """Return the key and the values of `section.key=values`.

    Raises:
        OptionError: The text is not of this form.
    """
    key, equals, values = (part.strip() for part in text.partition("="))
    if not (equals and values and "." in key):
        problem = "must be section.key=values, as in training.learning_rate=1e-3..3e-2"
        raise OptionError("search", problem, value=text)
    return key, values


def parse_searches(texts: Sequence[str]) -> dict[str, str]:
    """Return the values of each key, from texts of the form `section.key=values`.

    Raises:
        OptionError: A text is not of this form, or a key is given twice or is a part of another.
    """
    space: dict[str, str] = {}
    for key, values in map(parse_search, texts):
        for other in space:
            whole, part = sorted((key, other), key=len)
            if part == whole:
                raise OptionError("search", f"{key}: is given twice; leave one out")
            if part.startswith(f"{whole}."):
                problem = f"{part}: is a part of {whole}, which is searched, too; leave one out"
                raise OptionError("search", problem)
        space[key] = values
    return space


def read_space(key: str, text: str, data: Mapping[str, Any]) -> Space:
    """Return the range or the choices that `text` describes.

    Args:
        key: Setting to search, as in `model.hidden_size`.
        text: Values, as in `1e-3..3e-2` or `256,512`.
        data: Configuration in which the limits or choices must be valid.

    Raises:
        OptionError: The key cannot be searched, or a value is not valid.
    """
    place = f"{key}={text}"
    for name, reason in _NOT_SEARCHED.items():
        if key == name or key.startswith(f"{name}."):
            raise OptionError("search", f"{place}: cannot be searched: {reason}")

    def check(value: Any) -> str:
        try:
            config = check_config(with_values(data, {key: value}), place)
        except ConfigError as error:
            raise OptionError("search", str(error)) from None
        return json.dumps(_configured_value(config, key))

    types = _TYPES.get(key, set())
    if bool in types and ".." in text:
        problem = f"{key} is true or false, not a number; give choices: {key}=true,false"
        raise OptionError("search", f"{place}: {problem}")
    if match := re.fullmatch(rf"({_NUMBER})\s*\.\.+\s*({_NUMBER})", text):
        if "..." in text:
            raise OptionError("search", f"{place}: write a range with two dots, as in 0..0.5")
        if str in types:
            problem = f"{key} is not a number; give choices, separated by commas"
            raise OptionError("search", f"{place}: {problem}")
        low, high = map(_to_number, match.groups())
        return _read_range(low, high, place, check)
    return _read_choices(text, place, check)


def _read_range(low: float, high: float, place: str, check: Callable[[Any], str]) -> Range:
    if not low < high:
        raise OptionError("search", f"{place}: the first number must be less than the second")
    check(low)
    check(high)
    if int(low) == low and int(high) == high:
        try:
            check(low + 0.5)
        except OptionError:  # The field accepts only integers, also as 1e2.
            return Range(int(low), int(high))
    return Range(float(low), float(high))


def _read_choices(text: str, place: str, check: Callable[[Any], str]) -> Choices:
    try:
        items = parse_yaml(f"[{text}]")
    except ValueError as error:
        problem = "is neither a range, as in 0..0.5, nor choices, as in 256,512"
        raise OptionError("search", f"{place}: {problem}: {error}") from None
    # YAML reads 1e-3 as text.
    values = [
        _to_number(item) if isinstance(item, str) and re.fullmatch(_NUMBER, item) else item
        for item in items
    ]
    texts: dict[str, str] = {}  # By the configured value, because 1 and true may mean the same.
    for value in values:
        texts.setdefault(check(value), json.dumps(value))
    if len(texts) < 2:
        raise OptionError(
            "search",
            f"{place}: is one value; give a range or several choices, "
            "or set the value in the configuration",
        )
    return Choices(tuple(texts.values()))


def _to_number(text: str) -> float:
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)


def with_values(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with the values of dotted keys replaced."""
    data = dict(data)
    for dotted, value in values.items():
        key, _, rest = dotted.partition(".")
        if rest:
            inner = data.get(key)
            value = with_values(inner if isinstance(inner, dict) else {}, {rest: value})
        data[key] = value
    return data


def configured_parameters(data: Mapping[str, Any], spaces: Mapping[str, Space]) -> dict[str, Any]:
    """Return the configured values that lie in the search spaces, as Optuna's parameters."""
    parameters: dict[str, Any] = {}
    for key, space in spaces.items():
        value = _configured_value(check_config(data, key), key)
        if isinstance(space, Range):
            if isinstance(value, int | float) and space.low <= value <= space.high:
                parameters[key] = value
            continue
        for text in space.texts:
            config = check_config(with_values(data, {key: json.loads(text)}), key)
            if _configured_value(config, key) == value:
                parameters[key] = text
                break
    return parameters


def _configured_value(config: Config, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value[0] if isinstance(value, list) and len(value) == 1 else value  # [512] means 512.
