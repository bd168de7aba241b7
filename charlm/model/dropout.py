"""Dropout: of units, at each token or for a whole window, and of whole embeddings."""

from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Module):
    """Drops a share of units in training and scales up the rest (Srivastava et al. 2014)."""

    def __init__(self, share: float, *, whole_window: bool = False) -> None:
        """Make one.

        Args:
            share: Of the units, dropped.
            whole_window: Drop the same units at every token of a window: variational dropout (Gal and Ghahramani
                2016, arXiv:1512.05287). Otherwise others at each (Zaremba et al. 2014, arXiv:1409.2329).
        """
        super().__init__()
        self.share = share
        self.whole_window = whole_window

    def forward(self, x: Tensor) -> Tensor:
        """Return what is left: (time, batch, units) → the same shape."""
        if not (self.training and self.share):
            return x
        if not self.whole_window:
            return functional.dropout(x, self.share)
        return x * functional.dropout(x.new_ones(x.shape[1:]), self.share)


class WordDropout(nn.Module):
    """Drops the embeddings of a share of the vocabulary, whole, for a window (Gal and Ghahramani 2016)."""

    def __init__(self, share: float, vocabulary_size: int) -> None:
        """Make one for so many ids."""
        super().__init__()
        self.share = share
        self.vocabulary_size = vocabulary_size

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Return what is left of embedded `ids`, (time, batch): (time, batch, embedding) → the same shape."""
        if not (self.training and self.share):
            return x
        kept = functional.dropout(x.new_ones(self.vocabulary_size), self.share)
        return x * kept[ids].unsqueeze(-1)
