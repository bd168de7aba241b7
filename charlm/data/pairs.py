"""Pairs: records with a source and a target, such as a text and its label.

A pair is a record of a corpus like any other: its source, a tab, and its target. A table gives the
two fields, and a plain text has one pair per line.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from charlm.config.task import Task as TaskSection
from charlm.data.tokenizer import UNK, Ids, Tokenizer
from charlm.data.tokens import Tokens
from charlm.data.windows.directions import record_spans
from charlm.data.windows.window import PADDING
from charlm.errors import ConfigError, CorpusError, quote

SEPARATOR = "\t"
# Problems of records that are not pairs.
NO_TAB = "has no tab, which separates the source from the target"
NO_SOURCE = "has no source before the tab"
NO_TARGET = "has no target after the tab"
_SHOWN = 60  # Characters of a record in a message.


def add_targets(tokens: Tokens, tokenizer: Tokenizer, task: TaskSection) -> Tokens:
    """Return encoded records with the targets of a task; arguments as for `completion_targets`."""
    if task.writes_targets:
        return replace(tokens, targets=completion_targets(tokens.ids, tokenizer))
    return tokens


def completion_targets(ids: Ids, tokenizer: Tokenizer) -> npt.NDArray[np.int32]:
    """Return the targets of encoded pairs, (tokens,): the ids after the first tab of each record.

    Args:
        ids: Ids of the pairs, each with its closing <EOS>, (tokens,).
        tokenizer: Tokenizer of the ids.

    Raises:
        CorpusError: A record has no tab, no source or no target.
    """
    ids = np.asarray(ids)
    spans = record_spans(ids)
    tabs = np.flatnonzero(ids == separator_id(tokenizer))
    # The first tab of each record, or a place after its end if there is none.
    first = np.append(tabs, len(ids))[np.searchsorted(tabs, spans[:, 0])]
    problems = {
        NO_TAB: first >= spans[:, 1],
        NO_SOURCE: first == spans[:, 0],
        NO_TARGET: first == spans[:, 1] - 2,
    }
    for problem, has_it in problems.items():
        if has_it.any():
            start, stop = spans[np.argmax(has_it)]
            raise pair_error(tokenizer.decode(ids[start : stop - 1].tolist()), problem)
    is_source = np.arange(len(ids)) <= np.repeat(first, spans[:, 1] - spans[:, 0])
    return np.where(is_source, PADDING, ids.astype(np.int32))


def pair_error(record: str, problem: str) -> CorpusError:
    """Return the error of a record that is not a pair."""
    shown = record if len(record) <= _SHOWN else f"{record[:_SHOWN]}..."
    return CorpusError(
        f"the record {quote(shown)} {problem}; correct or remove it, or give a table with the "
        "fields source and target"
    )


def separator_id(tokenizer: Tokenizer) -> int:
    """Return the id of the tab.

    Raises:
        CorpusError: No record of the training text has a tab.
        ConfigError: The tab is no token of its own at this level.
    """
    ids = tokenizer.encode(SEPARATOR).tolist()
    if len(ids) != 1 or ids[0] == UNK:
        level = tokenizer.section.level
        if level == "char":
            raise CorpusError(
                f"the text {NO_TAB}; write one into each record, or give a table with the fields "
                "source and target"
            )
        raise ConfigError(
            f"tokenizer: the tab between source and target is no token at level {level}; use "
            "tokenizer.level=char or byte"
        )
    return int(ids[0])
