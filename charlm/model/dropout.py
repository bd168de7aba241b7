"""Dropout of units, per token or per window, and dropout of whole embeddings."""

from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Module):
    """Dropout of units in training, with the remaining units scaled up (Srivastava et al. 2014).

    Attributes:
        p: Fraction of the units that is dropped.
        whole_window: The same units are dropped at every token of a window, which is variational
            dropout (Gal and Ghahramani 2016, arXiv:1512.05287); otherwise each token has its own
            mask (Zaremba et al. 2014, arXiv:1409.2329).
    """

    def __init__(self, p: float, *, whole_window: bool = False) -> None:
        """Create a layer; see the attributes of the class."""
        super().__init__()
        self.p = p
        self.whole_window = whole_window

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x, (time, batch, units) → (time, batch, units)."""
        if not (self.training and self.p):
            return x
        if not self.whole_window:
            return functional.dropout(x, self.p)
        return x * functional.dropout(x.new_ones(x.shape[1:]), self.p)


class WordDropout(nn.Module):
    """Dropout of whole embeddings: all occurrences of some ids in a window are zero.

    Gal and Ghahramani 2016 (arXiv:1512.05287), section 4.2.

    Attributes:
        p: Fraction of the vocabulary that is dropped for a window.
        vocabulary_size: Number of ids.
    """

    def __init__(self, p: float, vocabulary_size: int) -> None:
        """Create a layer; see the attributes of the class."""
        super().__init__()
        self.p = p
        self.vocabulary_size = vocabulary_size

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """Drop embeddings of some ids.

        Args:
            x: Embedded tokens, (time, batch, embedding).
            ids: Ids of the tokens, (time, batch).

        Returns:
            Embedded tokens with the others scaled up, (time, batch, embedding).
        """
        if not (self.training and self.p):
            return x
        scale = functional.dropout(x.new_ones(self.vocabulary_size), self.p)
        return x * scale[ids].unsqueeze(-1)
