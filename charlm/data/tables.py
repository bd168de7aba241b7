"""Tables with a document per row: JSON (`.jsonl`, `.ndjson`, `.json`), CSV, Parquet, CoNLL."""

import csv
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib import import_module
from itertools import chain
from typing import Any, NamedTuple

from charlm.config.corpus import Scalar
from charlm.data.encodings import open_utf8, utf8_blocks
from charlm.data.formats import Source, import_arrow
from charlm.errors import ConfigError, CorpusError, counted
from charlm.storage.memory_maps import BLOCK_BYTES
from charlm.storage.untrusted import one_line

_BATCH_ROWS = 1024  # Rows of a Parquet file that are read together.
_MAX_LINE_BYTES = 1 << 26  # A parsed line takes up to 25 times as much memory.
_MAX_VALUES_SHOWN = 5
_MAX_NAME_SHOWN = 40
# The line before a table that tells Excel its delimiter.
_DELIMITER_LINE = re.compile(r"sep=([^\s\"]|\t)[\r\n]*")
_CSV_ORIGIN = "the first line is read as the names of the fields:"
# Names of the fields of a pair that say what they are; the source comes first.
_KNOWN_PAIRS = (("source", "target"), ("text", "label"), ("input", "output"), ("tokens", "tags"))
_TARGET_NAMES = ("target", "label", "output", "tag", "tags", "class", "category", "sentiment")
# How YAML writes these values: a text field that holds one of the words matches the value.
_WORDS: dict[Scalar, tuple[str, ...]] = {
    True: ("true", "yes", "on"),
    False: ("false", "no", "off"),
    None: ("", "null", "~"),
}


class _Row(NamedTuple):
    """A row of a table: its place for messages, such as "line 3", its fields, and their origin."""

    place: str
    fields: dict[str, Any]
    origin: str = "the fields are"


class _RepeatedKeys(dict[str, Any]):
    """A JSON object in which a key is repeated; `names` are the keys as they are written."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


@dataclass(frozen=True)
class PairFields:
    """Names of the fields with the source and with the target of a pair."""

    source: str
    target: str


def read_documents(
    source: Source,
    *,
    encoding: str,
    field: str | PairFields,
    where: Mapping[str, Scalar],
    checks_encoding: bool,
) -> Iterator[str]:
    """Yield the text of each document of a table. A row whose text is null is skipped.

    Args:
        source: The table.
        encoding: Encoding of the file; without effect on Parquet.
        field: Name of the field that contains the text. The text of a pair is its source, a tab,
            and its target.
        where: Fields and the values that they must have; other rows are skipped.
        checks_encoding: Whether to refuse a file that is UTF-8 in place of `encoding`.

    Raises:
        CorpusError: A row cannot be read, a selected row has no text in `field`, or no row has a
            text.
        OSError: The file cannot be read.
    """
    fields = [field] if isinstance(field, str) else [field.source, field.target]
    rows = _read_rows(source, encoding, [*fields, *where], checks_encoding=checks_encoding)
    selection = _Selection(where)
    is_empty = True
    text: str | None
    for row in filter(selection.includes, rows):
        if isinstance(field, PairFields):
            text = _pair_of(row, field, source.name)
        else:
            text = _text_of(row, field, source.name)
        if text is not None:
            is_empty = False
            yield text
    if is_empty:
        reason = selection.reason() or f"the table is empty, or {field!r} is null in every row"
        raise CorpusError(f"{source.name}: contains no document; {reason}")


def choose_fields(names: Sequence[str], source: str | None, target: str | None) -> tuple[str, str]:
    """Return the fields with the source and the target, those that are not given by their names.

    >>> choose_fields(["id", "text", "label"], None, None)
    ('text', 'label')

    Raises:
        ConfigError: There is more than one possibility, or none.
    """
    if source is None and target is None:
        pairs = [pair for pair in _KNOWN_PAIRS if set(pair) <= set(names)]
        if not pairs and len(names) == 2:
            first, second = names
            is_swapped = first in _TARGET_NAMES and second not in _TARGET_NAMES
            pairs = [(second, first) if is_swapped else (first, second)]
        if len(pairs) == 1:
            return pairs[0]
    elif len(names) == 2:
        others = [name for name in names if name not in (source, target)]
        return source or others[0], target or others[-1]
    given = [role for role, name in (("source", source), ("target", target)) if name is None]
    shown = ", ".join(map(repr, names[:10]))
    raise ConfigError(
        f"corpus.{given[0]}: which field is the {given[0]}? the fields are {shown} (the first "
        "line of a .csv or .tsv file is read as their names); name it with "
        f"--set corpus.{given[0]}=NAME" + (" --set corpus.target=NAME" if len(given) > 1 else "")
    )


def field_names(source: Source, *, encoding: str) -> list[str]:
    """Return the names of the fields in the first row of a table.

    Raises:
        CorpusError: The row cannot be read, or there is none.
        OSError: The file cannot be read.
    """
    row = next(_read_rows(source, encoding, [], checks_encoding=False), None)
    if row is None:
        raise CorpusError(f"{source.name}: contains no row; give a table of sources and targets")
    return list(map(str, row.fields))


def _read_rows(
    source: Source, encoding: str, fields: list[str], *, checks_encoding: bool
) -> Iterator[_Row]:
    """Yield the rows of a table; of a Parquet file, only these fields if the first one exists."""
    if source.table == ".parquet":
        return _read_parquet(source, fields)
    file = open_utf8(utf8_blocks(source, encoding, checks_encoding=checks_encoding))
    if source.table in (".csv", ".tsv"):
        return _read_csv(file, source, fields)
    rows = _TEXT_READERS[source.table](file, source.name)
    return (_with_unique_fields(row, fields, source.name) for row in rows)


def _check_unique(names: Sequence[str], fields: list[str], place: str) -> None:
    """Raise CorpusError if several fields have the name of one that is read."""
    for field in fields:
        if names.count(field) > 1:
            raise CorpusError(
                f"{place}: has {names.count(field)} fields named {field!r}; give each a name of "
                "its own"
            )


def _with_unique_fields(row: _Row, fields: list[str], name: str) -> _Row:
    """Return a row in which no field that is read is repeated."""
    if isinstance(row.fields, _RepeatedKeys):
        _check_unique(row.fields.names, fields, f"{name}: {row.place}")
    return row


def _pair_of(row: _Row, fields: PairFields, name: str) -> str:
    """Return the source and the target of a row with a tab between them.

    A tab within them becomes a space, so that their lengths stay as they are.
    """
    pair = vars(fields).items()
    return "\t".join(_cell_of(row, role, field, name).replace("\t", " ") for role, field in pair)


def _cell_of(row: _Row, role: str, field: str, name: str) -> str:
    """Return the text of a cell: of a list, its words; of a whole number, its digits."""
    value = row.fields.get(field)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = " ".join(value)
    elif isinstance(value, int):
        value = str(value)
    if field not in row.fields or not isinstance(value, str | None):
        raise _not_text(row, field, name, f"name another field with --set corpus.{role}")
    if value is None or not value.strip():
        raise CorpusError(
            f"{name}: {row.place}: field {field!r}, the {role}, is empty; fill it, or skip the row "
            "with corpus.where"
        )
    return value


def _text_of(row: _Row, field: str, name: str) -> str | None:
    """Return the text of a row, or None if it is null."""
    text = row.fields.get(field)
    if isinstance(text, str) or (text is None and field in row.fields):
        return text
    setting = _setting_of_longest_text(row)
    remedy = (
        f"name another field with --set {setting}, skip the row with corpus.where, or rename the "
        "file to .txt to read it as plain text"
    )
    raise _not_text(row, field, name, remedy)


def _not_text(row: _Row, field: str, name: str, remedy: str) -> CorpusError:
    kind = type(row.fields[field]).__name__ if field in row.fields else "nothing"
    names = one_line(", ".join(sorted(map(str, row.fields))[:10])) or "none"
    return CorpusError(
        f"{name}: {row.place}: field {field!r} must be text, got {kind} ({row.origin} "
        f"{names}); {remedy}"
    )


def _setting_of_longest_text(row: _Row) -> str:
    """Return the setting, quoted for the shell, that names the field with the longest text."""
    texts = {
        name: len(text)
        for name, text in row.fields.items()
        if isinstance(text, str) and _is_short_name(name)
    }
    if not texts:
        return "corpus.field"
    return shlex.quote(f"corpus.field={max(texts, key=texts.__getitem__)}")


def _is_short_name(name: object) -> bool:
    """Return whether a name can be shown whole in a message."""
    return isinstance(name, str) and name.isprintable() and len(name) <= _MAX_NAME_SHOWN


class _Selection:
    """Selects the rows whose fields have the values of `where`, and remembers other values."""

    def __init__(self, where: Mapping[str, Scalar]) -> None:
        self._where = where
        self._others: dict[str, dict[str, None]] = {name: {} for name in where}
        self._num_rows = 0

    def includes(self, row: _Row) -> bool:
        """Return whether a row is selected."""
        self._num_rows += 1
        for name, expected in self._where.items():
            value = row.fields.get(name)
            if not _matches(value, expected):
                others = self._others[name]
                if len(others) < _MAX_VALUES_SHOWN:
                    others[f"{value!r:.40}" if name in row.fields else "missing"] = None
                return False
        return True

    def reason(self) -> str:
        """Return why no row is selected; an empty text if there is another reason."""
        held = [
            f"{name} is {', '.join(values)}, not {self._where[name]!r}"
            for name, values in self._others.items()
            if values
        ]
        return one_line(f"corpus.where skips rows: {'; '.join(held)}") if held else ""


def _matches(value: Any, expected: Scalar) -> bool:
    """Return whether a field has a value. A text has the value that YAML reads in it.

    >>> _matches("no", False), _matches("2020", 2020), _matches("en", "en"), _matches("no", True)
    (True, True, True, False)
    """
    if isinstance(value, str) and not isinstance(expected, str):
        if expected is None or isinstance(expected, bool):
            return value.lower() in _WORDS[expected]
        try:  # As a float, a long number would equal its neighbours.
            return Decimal(value) == Decimal(str(expected))
        except InvalidOperation:
            return False
    return bool(value == expected)


def _read_json_lines(file: io.BufferedReader, name: str) -> Iterator[_Row]:
    number = 0
    while line := file.readline(_MAX_LINE_BYTES):
        number += 1
        if len(line) == _MAX_LINE_BYTES:
            raise _too_long(name, f"line {number}")
        if line.strip():
            yield _Row(f"line {number}", _parse_object(line, f"{name}: line {number}"))


def _parse_object(text: bytes | str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_make_object)
    except json.JSONDecodeError as error:  # Its own text counts lines from the beginning of `text`.
        problem = f"{error.msg} at character {error.pos + 1}"
        raise CorpusError(f"{place} is not JSON: {problem}; correct or remove it") from None
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place} is not JSON: {error}; correct or remove it") from None
    return _as_object(value, place)


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    return keys if len(keys) == len(pairs) else _RepeatedKeys(pairs)


def _as_object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CorpusError(
            f"{place} must be a JSON object, got {type(value).__name__}; correct or remove it"
        )
    return value


def _read_json(file: io.BufferedReader, name: str) -> Iterator[_Row]:
    """Yield the objects of a JSON array, or of objects one after the other."""
    decoder = json.JSONDecoder(object_pairs_hook=_make_object)
    characters = io.TextIOWrapper(file, encoding="utf-8", newline="")
    text = ""
    place = "item 1"
    number = 1
    num_open = 0  # Arrays without their end.
    while more := characters.read(max(BLOCK_BYTES, len(text))):  # Doubled for a long object.
        text += more
        end = 0
        while True:
            at = _after_separators(text, end)
            num_open += text.count("[", end, at) - text.count("]", end, at)
            if at == len(text):
                break
            place = f"item {number}"
            try:
                value, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                break  # The rest of the object is in the next block.
            yield _Row(place, _as_object(value, f"{name}: {place}"))
            number += 1
        text = text[at:]
        if len(text) >= _MAX_LINE_BYTES:
            raise _too_long(name, place)
    if text:
        _parse_object(text, f"{name}: {place}")  # This fails, and its error says why.
    if num_open > 0:
        raise CorpusError(
            f"{name}: ends after {counted(number - 1, 'item')} without the closing ] of its array; "
            "use a complete copy of the file"
        )


def _after_separators(text: str, at: int) -> int:
    """Return the position of the next object of a JSON array."""
    while at < len(text) and text[at] in "[], \t\r\n":
        at += 1
    return at


class _Header(NamedTuple):
    """The row of a CSV file with the names of the fields: its line, the line's number from 1."""

    line: str
    number: int
    delimiter: str


def _find_header(lines: Iterator[str], table: str) -> _Header:
    """Return the first row that is not empty.

    The delimiter is the most frequent of comma, semicolon and tab in it, unless a line before it
    names one.
    """
    named = None
    for number, line in enumerate(lines, start=1):
        if match := _DELIMITER_LINE.fullmatch(line):
            named = match[1]
        elif line.strip():
            usual = "\t,;" if table == ".tsv" else ",;\t"
            return _Header(line, number, named or max(usual, key=line.count))
    return _Header("", 1, ",")


def _read_csv(file: io.BufferedReader, source: Source, fields: list[str]) -> Iterator[_Row]:
    """Yield the rows of a table whose first row has the names of the fields."""
    characters = io.TextIOWrapper(file, encoding="utf-8", newline="")
    lines = iter(lambda: characters.readline(_MAX_LINE_BYTES), "")
    header, first, delimiter = _find_header(lines, source.table)
    csv.field_size_limit(_MAX_LINE_BYTES)
    table = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)
    try:
        names = next(table, [])
        _check_unique(names, fields, source.name)
        number = first + table.line_num
        for cells in table:
            place = f"line {number}"
            if cells and len(cells) != len(names):
                raise CorpusError(
                    f"{source.name}: {place}: has {counted(len(cells), 'cell')}, but the first "
                    f"line names {counted(len(names), 'field')}; quote cells that contain "
                    f"{delimiter!r} or a line end"
                )
            if cells:
                yield _Row(place, dict(zip(names, cells, strict=True)), _CSV_ORIGIN)
            number = first + table.line_num  # A cell may have several lines.
    except csv.Error as error:
        raise CorpusError(
            f"{source.name}: line {first - 1 + table.line_num} is not CSV: {error}; correct or "
            "remove it"
        ) from None


def _read_conll(file: io.BufferedReader, name: str) -> Iterator[_Row]:
    """Yield the sentences of a file with a line per token, as the fields `tokens` and `tags`.

    The first column is the token and the last one its tag. Columns are separated by tabs, or else
    by spaces; an empty line ends a sentence. Comments (`# key = value`) and the lines -DOCSTART-
    are skipped.
    """
    pairs: list[tuple[str, str]] = []
    first = 1
    for number, line in enumerate(chain(io.TextIOWrapper(file, encoding="utf-8"), [""]), start=1):
        columns = line.strip("\r\n").split("\t") if "\t" in line else line.split()
        if not line.strip():
            if pairs:
                tokens, tags = (" ".join(column) for column in zip(*pairs, strict=True))
                yield _Row(f"line {first}", {"tokens": tokens, "tags": tags})
            pairs = []
        elif columns[0] != "-DOCSTART-" and not (columns[0] == "#" and "=" in columns):
            token, tag = columns[0].strip(), columns[-1].strip()
            if len(columns) < 2 or not token or not tag or " " in token + tag:
                raise CorpusError(
                    f"{name}: line {number}: must have a token and its tag, got "
                    f"{line.strip()!r:.60}; correct or remove it"
                )
            first = first if pairs else number
            pairs.append((token, tag))


def _too_long(name: str, place: str) -> CorpusError:
    return CorpusError(f"{name}: {place} has 64 MiB or more; split it into several documents")


def _read_parquet(source: Source, fields: list[str]) -> Iterator[_Row]:
    arrow = import_arrow(source.name)
    parquet = import_module("pyarrow.parquet")
    number = 0
    try:
        with parquet.ParquetFile(source.path) as file:
            columns = [name for name in dict.fromkeys(fields) if name in file.schema_arrow.names]
            _check_unique(file.schema_arrow.names, fields, source.name)
            if fields[:1] != columns[:1]:
                columns = []  # Read all columns, so that the error can list their names.
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns or None):
                for row in batch.to_pylist():
                    number += 1
                    yield _Row(f"row {number}", row)
    except (
        arrow.ArrowException,  # pyarrow has no exception of its own for damaged files.
        ValueError,
        LookupError,
        TypeError,
    ) as error:
        raise CorpusError(
            f"{source.name}: cannot be read as Parquet: {one_line(str(error))}; use an undamaged "
            "copy, or write the table as .jsonl"
        ) from None


_TEXT_READERS: dict[str, Callable[[io.BufferedReader, str], Iterator[_Row]]] = {
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".conll": _read_conll,
}
