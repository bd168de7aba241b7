"""Dropout of units, of whole embeddings, and of any tensor, such as recurrent weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional

_WORDS = 2**16  # Number of different random words that a mask is drawn from.
_WORDS_PER_DRAW = 4  # A random number of 64 bits has four words of 16 bits.


def drop(x: Tensor, p: float) -> Tensor:
    """Set random elements of x to zero, and scale the others to keep the mean.

    Srivastava et al. 2014.

    Args:
        x: Any tensor.
        p: Fraction of the elements that is dropped, at least 0 and less than 1.
    """
    if not p:
        return x
    # On a GPU torch draws the mask in the kernel that multiplies.
    return x * dropout_scale(x.shape, p, like=x) if _is_on_cpu(x) else functional.dropout(x, p)


def dropout_scale(shape: torch.Size, p: float, *, like: Tensor) -> Tensor:
    """Return random factors of dropout: 0, or 1 / (1 - p).

    On a CPU each factor comes from 16 random bits, so that the fraction dropped is p rounded to a
    multiple of 2^-16, and the scale is that of the rounded fraction. `bernoulli_` takes several
    times as long, because it draws 64 bits for each factor.

    Args:
        shape: Shape of the result.
        p: Fraction of zeros, at least 0 and less than 1.
        like: Tensor with the device and the type of the result.
    """
    if not _is_on_cpu(like):
        return functional.dropout(like.new_ones(shape), p)
    dropped_words = min(round(p * _WORDS), _WORDS - 1)
    is_kept = torch.ge(_random_words(shape), dropped_words - _WORDS // 2, out=like.new_empty(shape))
    return is_kept.mul_(_WORDS / (_WORDS - dropped_words))


def _is_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _random_words(shape: torch.Size) -> Tensor:
    """Return uniform integers from -2^15 to 2^15 - 1 of torch's CPU generator.

    Without bounds, `random_` leaves the sign bit zero; from the lowest integer on, it draws all 64.
    """
    size = shape.numel()
    draws = torch.empty(-(-size // _WORDS_PER_DRAW), dtype=torch.int64)
    return draws.random_(torch.iinfo(torch.int64).min, None).view(torch.int16)[:size].view(shape)


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
            return drop(x, self.p)
        return x * dropout_scale(x.shape[1:], self.p, like=x)


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
        scale = dropout_scale(torch.Size([self.vocabulary_size]), self.p, like=x)
        return x * scale[ids].unsqueeze(-1)
