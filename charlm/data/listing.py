"""Names of corpora, paths, folders, glob patterns and standard input → files in a stable order."""

import difflib
import fnmatch
import glob
import hashlib
import os
import re
import shlex
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from charlm.config.load import load_config, shipped
from charlm.data.cards import build_corpus, card_names, converted_folder, corpus_files, load_card
from charlm.errors import CharlmError, CorpusError, quote
from charlm.storage.atomic import atomic_write
from charlm.storage.memory_maps import BLOCK_BYTES

# With more names, the configuration of a run folder would be too large to be loaded.
_MAX_NAMES = 5_000
_MAX_NAME_CHARACTERS = 300_000
_STANDARD_INPUT = "standard input"
_MAX_SHOWN = 100  # Characters of a name that is probably a text.
# Name of a copy of standard input in a cache folder.
_COPY_NAME = re.compile(r"[\\/]texts[\\/]stdin-[0-9a-f]{16}\.txt$")


class MissingTextError(CorpusError):
    """A text that does not exist.

    Attributes:
        name: Name of the text as the configuration has it.
        problem: Name of the text in messages, and what is wrong.
    """

    def __init__(self, name: str, problem: str, remedy: str) -> None:
        """Make an error about the text `name`."""
        self.name = name
        self.problem = f"{shown_name(name)}: {problem}"
        super().__init__(f"{self.problem}; {remedy}")


def absolute_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return names that mean the same texts in every folder.

    Paths become absolute, names of corpora stay as they are, and standard input is copied into a
    file, so that it can be read again.

    Raises:
        CorpusError: Standard input cannot be read, or the names would fill a configuration file.
    """
    if names is None:
        return None
    corpora = card_names()
    absolute = tuple(_absolute_name(name, corpora) for name in names)
    if len(absolute) > _MAX_NAMES or sum(map(len, absolute)) > _MAX_NAME_CHARACTERS:
        raise CorpusError(
            f"{shown_name(absolute[0])}, ...: {len(absolute):,} names are too many for the "
            "configuration of a run; name their folder, or a pattern in quotation marks, such as "
            "'texts/*'"
        )
    return absolute


def shown_name(name: str | Path) -> str:
    """Return the name of a text in messages: a path in the current folder without this folder.

    Relative paths were made absolute. Standard input is not named as its copy in the cache.
    """
    title = title_of([str(name)])
    try:
        return title.removeprefix(f"{Path.cwd()}{os.sep}")
    except OSError:  # The current folder was removed.
        return title


def shown_names(names: Iterable[str]) -> str:
    """Return the names of several texts in messages."""
    return ", ".join(map(shown_name, names))


def shown_title(title: str) -> str:
    """Return the title of a corpus in messages: its paths as `shown_name` shows them."""
    return shown_names(title.split(", "))


def title_without_folders(title: str) -> str:
    """Return the title of a corpus on a page that others read: files without their folders."""
    parts = title.split(", ")
    return ", ".join(Path(part).name if Path(part).is_absolute() else part for part in parts)


def title_of(names: Iterable[str]) -> str:
    """Return the title of texts without a card: their names, as the configuration has them."""
    return ", ".join(
        _STANDARD_INPUT if name == "-" or _COPY_NAME.search(name) else name for name in names
    )


def find_files(names: Sequence[str], *, rules: int) -> list[Path]:
    """Return the files of names, paths, folders and glob patterns, in a stable order.

    Args:
        names: Names of the texts.
        rules: Value of `corpus.rules`. Rules 1 skip links to folders and what cannot be read.

    Raises:
        CorpusError: A text is missing or cannot be read.
    """
    corpora = card_names()
    expand = _expand_by_rules_1 if rules == 1 else _expand
    try:
        return [
            path
            for name in names
            for path in ([_corpus_file(name)] if name in corpora else expand(name))
        ]
    except OSError as error:
        raise CorpusError(
            f"{shown_name(error.filename)}: cannot be read: {error.strerror}; change its "
            "permissions, or name the files to read"
        ) from None


def _absolute_name(name: str, corpora: Sequence[str]) -> str:
    if name == "-":
        return str(_copy_standard_input())
    return name if name in corpora else str(Path(name).absolute())


def _copy_standard_input() -> Path:
    """Copy standard input into a file of the cache that is named by its checksum."""
    digest = hashlib.sha256()
    folder = converted_folder()
    # A process id would not do: processes in two containers can have the same one.
    temporary = folder / f".joining-{uuid.uuid4().hex}"
    with atomic_write(temporary) as file:
        for block in _standard_input_blocks():
            digest.update(block)
            file.write(block)
    return temporary.replace(folder / f"stdin-{digest.hexdigest()[:16]}.txt")


def _standard_input_blocks() -> Iterator[bytes]:
    try:
        yield from iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b"")
    except OSError as error:
        raise CorpusError(
            f"{_STANDARD_INPUT}: cannot be read: {error.strerror}; pipe a text in, or name a file"
        ) from None


def _corpus_file(name: str) -> Path:
    """Return the training text of a corpus, which is built if it can be built."""
    card = load_card(name)
    path = corpus_files(name, card)["train"]
    if path.is_file():
        return path
    if card.kind != "python":
        raise CorpusError(f"{name}: is not on this machine yet; run: charlm corpus fetch {name}")
    return build_corpus(name)


def _expand(name: str) -> list[Path]:
    """Return the files of a path, a folder or a glob pattern.

    A folder that matches a pattern is read whole, so that `texts` and `texts/*` are the same.
    """
    path = Path(name)
    if _is_configuration(path):
        raise CorpusError(
            f"{shown_name(name)}: is a configuration, not a text; use --config, or "
            "charlm.load_config"
        )
    if os.path.lexists(path):  # The name of a file may contain the characters of a pattern.
        files = _read_matches([path])
    else:
        base, *parts = path.parts if path.is_absolute() else (".", *path.parts)
        matches = sorted(_match(Path(base), parts))
        files = _read_matches(matches, reads_folders="**" not in parts)
    if not files:
        raise _no_such_text(name)
    return sorted(files)


def _read_matches(matches: Sequence[Path], *, reads_folders: bool = True) -> set[Path]:
    """Return the files among paths, and those in folders unless a pattern with ** matches them."""
    files: set[Path] = set()
    seen: set[Path] = set()
    for match in matches:
        if _is_run(match):
            raise CorpusError(
                f"{shown_name(match)}: is a run folder, not a text; name the run before the texts, "
                "or continue its training with charlm train --resume"
            )
        if not match.is_dir():
            files.add(_regular_file(match))
        elif reads_folders:
            files.update(_files_in(match, seen))
    return files


def _is_configuration(path: Path) -> bool:
    """Return whether a path is that of a configuration of charlm."""
    if path.suffix not in (".yaml", ".yml"):
        return False
    with suppress(CharlmError):
        return bool(load_config(path).model_fields_set)
    return False


def _is_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "tokenizer.json").is_file()


def _match(base: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the paths below a folder that match the parts of a glob pattern.

    A part that is the name of a file or folder is that name, as in [2024] letters/*.txt.
    """
    if not parts:
        yield base
        return
    part, *rest = parts
    if part == "**":
        for folder in _folders(base, set()):
            yield from _match(folder, rest or ["*"])
    elif os.path.lexists(base / part):
        yield from _match(base / part, rest)
    elif base.is_dir():
        for path in _entries(base, hidden=part.startswith(".")):
            if fnmatch.fnmatch(path.name, part) and (not rest or path.is_dir()):
                yield from _match(path, rest)


def _files_in(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files of a folder and of its subfolders, except hidden ones."""
    for inner in _folders(folder, seen):
        if _is_run(inner):
            pattern = shlex.quote(shown_name(folder / "**" / "*.txt"))
            raise CorpusError(
                f"{shown_name(inner)}: is a run folder, not a text; leave it out, with {pattern}, "
                "or move it"
            )
        for path in _entries(inner):
            if not path.is_dir():
                yield _regular_file(path)


def _folders(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield a folder and its subfolders, linked ones included, except hidden ones.

    Args:
        folder: The folder.
        seen: Folders that were already read, without links. Each is read once, and links to a
            folder that contains them are not followed, so that links cannot form a loop.
    """
    real = folder.resolve()
    if real in seen or not folder.is_dir():
        return
    seen.add(real)
    yield folder
    for path in _entries(folder):
        if path.is_dir() and not real.is_relative_to(path.resolve()):
            yield from _folders(path, seen)


def _entries(folder: Path, *, hidden: bool = False) -> list[Path]:
    """Return the contents of a folder in order, without the hidden ones unless they are wanted."""
    return sorted(path for path in folder.iterdir() if hidden or not path.name.startswith("."))


def _regular_file(path: Path) -> Path:
    """Return a path, which must be that of a regular file."""
    if path.is_file():
        return path
    if path.exists():
        raise CorpusError(
            f"{shown_name(path)}: is not a regular file; pipe it in instead, with - as the text, "
            "or remove it from the folder"
        )
    raise CorpusError(
        f"{shown_name(path)}: is a link to a file that does not exist; restore that file, or "
        "remove the link"
    )


def _expand_by_rules_1(name: str) -> list[Path]:
    """Return the files of a path, folder or pattern as earlier versions of charlm found them."""
    path = Path(name)
    if path.is_dir():
        paths = sorted(
            inner
            for inner in path.rglob("*")
            if inner.is_file() and not any(map(_is_hidden, inner.relative_to(path).parts))
        )
    elif path.exists():
        paths = [path]
    else:
        # Path.glob takes no absolute patterns.
        paths = sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207
    if not paths:
        raise _no_such_text(name)
    return [inner for inner in paths if inner.is_file()]


def _is_hidden(part: str) -> bool:
    return part.startswith(".")


def _similar_file(path: Path) -> str:
    """Return the path of a file beside a missing one; empty if none is similar.

    The suffix may be missing. The shell divides a name at its spaces, so `chapter` may also be the
    beginning of `chapter one.txt`.
    """
    try:
        names = [entry.name for entry in _entries(path.parent)]
    except OSError:
        return ""
    own = path.name.casefold()
    same = [name for name in names if name.casefold() == own]
    longer = [name for name in names if name.startswith((f"{path.name} ", f"{path.name}."))]
    near = same or longer or difflib.get_close_matches(path.name, names, n=1)
    return shown_name(path.with_name(near[0])) if near else ""


def _no_such_text(name: str) -> CorpusError:
    path = Path(name)
    if (len(path.name) > _MAX_SHOWN and " " in path.name) or "\n" in name:
        problem = "is no name of a file; to use this text, write it into a file"
        return CorpusError(f"{quote(shown_name(name)[:_MAX_SHOWN])}...: {problem}")
    if shown_name(name) == _STANDARD_INPUT:
        return MissingTextError(name, f"its copy {name} was removed", "pipe the text in again")
    problem = "contains no file" if path.is_dir() else "no such text"
    hint = "correct the path; charlm corpus list shows the names of corpora"
    # Only a single word can be a misspelled name. The path may have been made absolute.
    could_be_name = not path.suffix and path.parent in (Path(), Path.cwd())
    if could_be_name and (shipped("configs") / f"{path.name}.yaml").is_file():
        hint = f"{path.name} is a configuration; use --config {path.name}, or charlm.load_config"
    elif could_be_name and (similar := difflib.get_close_matches(path.name, card_names(), n=1)):
        hint = f"did you mean the corpus {similar[0]}?"
    elif re.search(r"(^|[\\/])https?:[\\/]", name):
        hint = "charlm reads no web page; download the text and give its file"
    elif not path.is_dir() and (near := _similar_file(path)):
        hint = f"did you mean {shlex.quote(near)}?"
    return MissingTextError(name, problem, hint)
