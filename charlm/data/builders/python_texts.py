"""Texts that a Python installation contains: its documentation, its source code, Unicode names."""

import ast
import hashlib
import re
import sys
import sysconfig
import tokenize
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from charlm.errors import CorpusError

# Folders of the standard library with installed packages, tests or compiled files.
_EXCLUDED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload"}
)
_MIN_DOCUMENT_CHARACTERS = 80  # A shorter docstring is a label rather than prose.
# Names that are composed by a rule: those of Hangul syllables, and the numbered names of three sets
# of more than 500 signs each. (Names that end in their own code point, such as those of CJK
# ideographs, are found without a pattern.) Smaller numbered sets, such as Braille patterns, are
# kept. 30,229 names remain with Unicode 14.0, the version of Python 3.11.
_GENERATED_NAME = re.compile(
    r"""HANGUL\ SYLLABLE\ .*
      | TANGUT\ COMPONENT-\d+
      | ANATOLIAN\ HIEROGLYPH\ A\d+[A-Z]?
      | EGYPTIAN\ HIEROGLYPH\ [A-Z]+\d+[A-Z]*""",
    re.VERBOSE,
)


def python_docs() -> Iterator[str]:
    """Collect English technical prose: Python's help topics and the standard library's docstrings.

    Yields:
        Distinct documents of at least 80 characters without form feeds, about 2 MB in total. They
        are shuffled by a hash of the text, so that every contiguous part represents the whole.

    Raises:
        CorpusError: The installation has no source files of the standard library.
    """
    documents = {
        _without_form_feeds(text).strip() for text in (*_help_topics(), *_library_docstrings())
    }
    yield from _shuffled(
        text for text in documents if len(text) >= _MIN_DOCUMENT_CHARACTERS and _is_unicode(text)
    )


def python_source() -> Iterator[str]:
    """Collect the source files of the standard library without its tests.

    Yields:
        Distinct non-empty files without form feeds, about 12 MB in total with Python 3.11. They are
        shuffled by a hash of the file's name, so that every contiguous part represents the whole.

    Raises:
        CorpusError: The installation has no source files of the standard library.
    """
    root = _standard_library()
    names = (path.relative_to(root).as_posix() for path in _library_files(root))
    seen: set[str] = set()
    for name in _shuffled(names):
        source = _without_form_feeds(_read_source(root / name))
        # Hundreds of packages have an empty or the same `__init__.py`.
        if source.strip() and source not in seen:
            seen.add(source)
            yield source


def unicode_names() -> Iterator[str]:
    """List the names of the Unicode characters, except those composed by a rule or from a number.

    Yields:
        More than 30,000 distinct names, such as "LATIN SMALL LETTER A WITH GRAVE", in the order of
        the code points.
    """
    for code_point in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(code_point), "")
        is_generated = name.endswith(f"-{code_point:04X}") or _GENERATED_NAME.fullmatch(name)
        if name and not is_generated:
            yield name


def _help_topics() -> Iterable[str]:
    """Return the topics of Python's `help`; some installations have none."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return ()
    return topics.values()


def _library_docstrings() -> Iterator[str]:
    """Yield every docstring of the standard library without its indentation."""
    for path in _library_files(_standard_library()):
        for node in ast.walk(_parse(_read_source(path))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node, clean=True) or ""


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _library_files(root: Path) -> list[Path]:
    """Return the source files of the standard library, sorted.

    Args:
        root: Folder of the standard library.

    Raises:
        CorpusError: There are none.
    """
    files = [
        path for path in sorted(root.rglob("*.py")) if _is_library_source(path.relative_to(root))
    ]
    if not files:
        raise CorpusError(
            f"{root}: no source files of the standard library; use a complete Python installation"
        )
    return files


def _is_library_source(name: Path) -> bool:
    # Files written by the build of Python contain paths of the machine that built it.
    is_written_by_build = name.name.startswith("_sysconfigdata") or name.parts[0].startswith(
        "config-"
    )
    return not is_written_by_build and _EXCLUDED_FOLDERS.isdisjoint(name.parts)


def _read_source(path: Path) -> str:
    """Return a source file in its declared encoding; an empty text if it cannot be read."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


def _parse(source: str) -> ast.Module:
    """Return the syntax tree of a source file; an empty module if it has a syntax error."""
    with warnings.catch_warnings():
        # Our users cannot act on warnings about the standard library's source.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def _without_form_feeds(text: str) -> str:
    # The card separates documents by form feeds.
    return text.replace("\f", "")


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8; a docstring may have a lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shuffled(texts: Iterable[str]) -> list[str]:
    # Sorting by a hash needs no seed, and another text does not change the order of the others.
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())
