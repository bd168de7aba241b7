"""Novelty: whether a text is neither in a corpus nor a repetition."""

from collections.abc import Iterable, Iterator, Sequence

from charlm.data.tokenizer import EOS, UNK_TEXT, Ids, Tokenizer
from charlm.data.windows.directions import record_spans

_BLOCK_IDS = 1 << 14  # Ids that are spelled together.
# The text of a corpus of at most this number of ids is kept in memory, to be searched faster.
_KEPT_IDS = 1 << 25


class NoveltyFilter:
    """Recognizes texts that are in a corpus or were seen before.

    What is compared is the text and not its ids: words and subwords can divide the same text in
    several ways.
    """

    def __init__(self, parts: Iterable[Ids], tokenizer: Tokenizer, *, records: bool) -> None:
        """Index the corpus.

        Args:
            parts: Ids of each part of the corpus.
            tokenizer: Tokenizer of the ids.
            records: Whether a text is compared with whole records; else it is searched for
                anywhere in the corpus.
        """
        self._token_texts = tokenizer.token_texts(unknown=UNK_TEXT.encode())
        self._parts = list(parts)
        self._records: set[bytes] | None = None
        if records:
            spans = ((ids, a, b) for ids in self._parts for a, b in record_spans(ids).tolist())
            self._records = {self._spell(ids[a : b - 1].tolist()) for ids, a, b in spans}
        self._whole: list[bytes] | None = None
        if not records and sum(map(len, self._parts)) <= _KEPT_IDS:
            self._whole = [b"".join(self._blocks(ids, overlap=0)) for ids in self._parts]
        self._seen: set[bytes] = set()

    def is_novel(self, ids: Sequence[int]) -> bool:
        """Return whether a text is new, and remember it."""
        if self._records is not None:  # Records are compared without their <EOS>.
            ids = [token for token in ids if token != EOS]
        text = self._spell(ids)
        is_known = text in self._seen or self._is_in_corpus(text)
        self._seen.add(text)
        return not is_known

    def _spell(self, ids: Iterable[int]) -> bytes:
        return b"".join(map(self._token_texts.__getitem__, ids))

    def _is_in_corpus(self, text: bytes) -> bool:
        if self._records is not None:
            return text in self._records
        if self._whole is not None:
            return any(text in whole for whole in self._whole)
        overlap = len(text) - 1
        return any(text in block for ids in self._parts for block in self._blocks(ids, overlap))

    def _blocks(self, ids: Ids, overlap: int) -> Iterator[bytes]:
        """Yield the text of ids in blocks, which repeat the last bytes of the block before."""
        end = b""
        for start in range(0, len(ids), _BLOCK_IDS):
            block = end + self._spell(ids[start : start + _BLOCK_IDS].tolist())
            yield block
            end = block[max(0, len(block) - overlap) :]
