"""Where the documents and the records of a plain file begin and end."""

import numpy as np
import numpy.typing as npt

from charlm.config.corpus import ResolvedCorpus
from charlm.data.sources import PlainFile
from charlm.data.utf8 import LineEnds, find_line_ends
from charlm.storage.memory_maps import PageRelease, map_file


def find_documents(
    file: PlainFile, section: ResolvedCorpus, line_ends: LineEnds
) -> npt.NDArray[np.int64]:
    """Return start and stop of each document or record that is not empty, (documents, 2).

    Args:
        file: The file.
        section: What a document or a record is.
        line_ends: Rule for line ends.
    """
    has_records = section.mode == "records"
    if has_records and section.record == "line":
        return _line_spans(file, line_ends)
    spans = _document_spans(file, (section.separator or "").encode())
    return _without_line_ends(file, spans) if has_records and section.separator else spans


def _document_spans(file: PlainFile, separator: bytes) -> npt.NDArray[np.int64]:
    """Return start and stop of each document that is not empty, (documents, 2).

    Without a separator, a file, or a row of a table, is one document.
    """
    if not separator:
        starts = np.concatenate([np.zeros(1, dtype=np.int64), file.ends[:-1]])
        return without_empty(np.stack([starts, file.ends], axis=1))
    spans, start = [], 0
    with map_file(file.path) as view:
        pages = PageRelease(view)
        for end in file.ends.tolist():
            while (stop := view.find(separator, start, end)) >= 0:
                spans.append((start, stop))
                pages.up_to(stop)
                start = stop + len(separator)
            spans.append((start, end))
            start = end
    return without_empty(np.array(spans, dtype=np.int64))


def _line_spans(file: PlainFile, line_ends: LineEnds) -> npt.NDArray[np.int64]:
    """Return start and stop of each line that is not empty, without its line end, (records, 2).

    Line ends are those of `charlm.data.utf8`; the end of a document also ends a line.
    """
    data = np.memmap(file.path, dtype=np.uint8, mode="r")
    end_starts, end_stops = find_line_ends(data, line_ends)
    stops = np.concatenate([file.ends, end_starts])
    # Stable, because an empty line may end where the document before it ends.
    order = np.argsort(stops, kind="stable")
    next_starts = np.concatenate([file.ends, end_stops])[order]
    stops = stops[order]
    starts = np.concatenate([np.zeros(1, dtype=np.int64), next_starts[:-1]])
    has_carriage_return = data[np.maximum(stops, 1) - 1] == ord("\r")
    stops = stops - ((stops > starts) & has_carriage_return)
    return without_empty(np.stack([starts, stops], axis=1))


def _without_line_ends(file: PlainFile, spans: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return documents without the line ends around them, which belong to their separators."""
    trimmed = spans.copy()
    with map_file(file.path) as view:
        for row, (start, stop) in enumerate(spans.tolist()):
            while start < stop and view[start] in b"\r\n":
                start += 1
            while start < stop and view[stop - 1] in b"\r\n":
                stop -= 1
            trimmed[row] = start, stop
    return without_empty(trimmed)


def without_empty(spans: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the spans that are not empty; start and stop are the last two columns."""
    filled: npt.NDArray[np.int64] = spans[spans[:, -2] < spans[:, -1]]
    return filled
