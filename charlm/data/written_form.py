"""Text as a model writes it: normalized by the tokenizer, with the model's own document ends."""

from charlm.data.corpus import Text
from charlm.data.tokenizer import Tokenizer
from charlm.data.utf8 import LineEnds, as_line_feeds


def record_end(text: Text) -> bytes:
    """Return what ends a record in written form: a line end, or NUL if records have lines."""
    return b"\n" if text.separator == "\n" else b"\0"


def written_form(text: Text, tokenizer: Tokenizer, *, records: bool) -> bytes:
    """Return a text as a model of this tokenizer would write it: UTF-8, or any bytes at level byte.

    The text is normalized by the tokenizer's rules. A record ends with `record_end`. The separator
    of the documents of a stream is what the model writes for <EOS>. If spaces separate tokens,
    there is exactly one space between two tokens.

    Args:
        text: Text as it was read.
        tokenizer: Tokenizer of the model.
        records: Whether the documents of the text are records.
    """
    spaced = tokenizer.separates_by_space
    end = b"\n" if spaced or tokenizer.section.eos == "document" else b""
    if records:
        end = record_end(text)
    pieces = []
    pending_end = b""
    for block, ends in text.blocks():
        piece = written_piece(block, tokenizer, text.line_ends)
        pieces += [pending_end, piece]
        pending_end = end if ends and not (spaced and piece.endswith(end)) else b""
    return b"".join([*pieces, pending_end if records else b""])


def written_piece(text: bytes, tokenizer: Tokenizer, line_ends: LineEnds = "line_feed") -> bytes:
    """Return UTF-8 text without document ends as a model of this tokenizer would write it.

    Args:
        text: The text; at level byte, any bytes.
        tokenizer: Tokenizer of the model.
        line_ends: The rule for line ends.
    """
    if tokenizer.separates_by_space:
        return _spaced(as_line_feeds(text, line_ends), tokenizer)
    return _normalized(text, tokenizer)


def _normalized(text: bytes, tokenizer: Tokenizer) -> bytes:
    if tokenizer.library.normalizer is None:
        return text
    normalized = tokenizer.normalize(text.decode(errors="surrogateescape"))
    return normalized.encode(errors="surrogateescape")


def _spaced(text: bytes, tokenizer: Tokenizer) -> bytes:
    # Line by line, because this normalizer replaces a line end by a token.
    return b"\n".join(b" ".join(_normalized(line, tokenizer).split()) for line in text.split(b"\n"))
