"""The table of the builders, by the name that a corpus card gives."""

from collections.abc import Callable, Iterator

from charlm.data.builders.agreement import agreement
from charlm.data.builders.pairs import code_kinds, number_words, script_names, written_dates
from charlm.data.builders.parity import parity
from charlm.data.builders.python_texts import python_docs, python_source, unicode_names

BUILDERS: dict[str, Callable[..., Iterator[str]]] = {
    "python-docs": python_docs,
    "python-source": python_source,
    "unicode-names": unicode_names,
    "agreement": agreement,
    "number-words": number_words,
    "written-dates": written_dates,
    "script-names": script_names,
    "code-kinds": code_kinds,
    "parity": parity,
}
