"""Context length: the loss as a function of the number of tokens that a model has read.

The same targets are predicted from contexts of different lengths. Before each context the state is
the initial one, so that nothing before the context can help.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from charlm.data.tokenizer import Ids
from charlm.data.windows.directions import reverse
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.probes.places import evenly_spaced, tokens_named
from charlm.evaluation.static_model import Floats, Integers
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import target_log_probabilities
from charlm.model_texts import text_to_score
from charlm.storage.results import Result
from charlm.storage.tables import format_settings
from charlm.trained_model import TrainedModel, provenance, require_language_model

if TYPE_CHECKING:
    from charlm.data.cards import Part

CONTEXTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # In tokens.
TARGETS = 2000
_PLACE = 50  # Adjacent targets, which share the longest contexts.
# Targets that share one reading of a context of k tokens: at most k / 10, so that each has between
# k and 1.1 k tokens of context.
_SHARED_FRACTION = 10
_MAX_TOKENS_PER_BATCH = 2**15


@dataclass(frozen=True)
class LossAtContext(Result):
    """Loss of the targets from contexts of one length.

    Attributes:
        context: Number of tokens read before a target. From 20 tokens on, adjacent targets share a
            reading and have up to a tenth more.
        loss_nats: Nats per target.
        gain_nats: Loss from the context of one row before, minus this loss; None in the first row.
        standard_error: Standard error of `gain_nats` over places in the text; None where there is
            no gain or only one place.
    """

    context: int
    loss_nats: float
    gain_nats: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Context(Result):
    """Loss by the number of context tokens.

    Attributes:
        contexts: One row for each number of context tokens, in ascending order.
        settings: Number of targets, run, text, version and so on.
    """

    contexts: list[LossAtContext]
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield a row for each number of context tokens, and the settings."""
        yield f"{'context tokens':>14}{'loss_nats':>12}{'gain':>10}{'std. error':>12}"
        for row in self.contexts:
            gain = "" if row.gain_nats is None else f"{row.gain_nats:+z.4f}"
            error = "" if row.standard_error is None else f"{row.standard_error:.4f}"
            yield f"{row.context:>14,}{row.loss_nats:>12.4f}{gain:>10}{error:>12}"
        yield format_settings(self.settings)


def measure_context(
    trained: TrainedModel,
    text: str | None = None,
    *,
    paths: str | Path | Sequence[str | Path] = (),
    split: "Part" = "valid",
    contexts: Sequence[int] = CONTEXTS,
    targets: int = TARGETS,
    at: Sequence[str] = (),
) -> Context:
    """Measure the loss of a model as a function of the number of tokens that it has read.

    Args:
        trained: The model.
        text: String to read.
        paths: Files, folders or names of corpora to read, instead of `text`.
        split: Part of the run's own corpus to read, if neither of the two is given.
        contexts: Numbers of context tokens; those longer than the text allows are left out.
        targets: Number of targets, at places that are evenly spaced over the text.
        at: Predict only these tokens, such as `was`; none means all tokens.

    Raises:
        CharlmError: The text cannot be read, is too short or has no such token, or the model reads
            records or in both directions.
    """
    require_language_model(trained)
    require_one_long_text(trained)
    named, names = tokens_named(trained, at)
    tokens, name = text_to_score(trained, text, paths, split)
    ids = reverse(tokens.ids, mode="stream") if not trained.is_forward else tokens.ids
    context = measure_losses(
        trained.model, ids, contexts=contexts, targets=targets, named=named, device=trained.device
    )
    settings = {
        "text": name,
        "at": names,
        "state": "initial before each context",
        "precision": "fp32",
    }
    return replace(context, settings=provenance(trained) | settings | context.settings)


@torch.inference_mode()
def measure_losses(
    model: LanguageModel,
    ids: Ids,
    *,
    contexts: Sequence[int],
    targets: int,
    device: torch.device,
    named: Sequence[int] = (),
) -> Context:
    """Measure the loss of the same targets from contexts of each length.

    Args:
        model: Model of one direction, in evaluation mode, on `device`.
        ids: Text in reading order, (tokens,).
        contexts: Numbers of context tokens; those longer than the text allows are left out.
        targets: Number of targets.
        device: Device of the model.
        named: Ids of the tokens that are predicted; none predicts all.

    Raises:
        OptionError: A number is too small.
        CorpusError: The text has fewer than four tokens, or no such token.
    """
    if min(contexts, default=0) < 1:
        raise OptionError("contexts", "must be numbers of at least 1", value=list(contexts))
    if targets < 1:
        raise OptionError("targets", "must be at least 1", value=targets)
    lengths = [length for length in sorted(set(contexts)) if length <= len(ids) // 2]
    if not lengths or len(ids) < 4:
        raise CorpusError(
            f"the text has {len(ids)} tokens, too few for a context of {min(contexts)}; give a "
            "longer text"
        )
    if named:
        places = _places_of(named, ids, longest=lengths[-1], targets=targets)
    else:
        places = _choose_places(len(ids), longest=lengths[-1], targets=targets)
    losses = [_losses(model, ids, places, length, device) for length in lengths]
    return Context(
        contexts=list(_rows(lengths, losses)),
        settings={"targets": losses[0].size, "places": len(places)},
    )


def require_one_long_text(trained: TrainedModel) -> None:
    """Raise CharlmError if a model reads records, or reads in both directions."""
    if trained.model.direction == "both":
        raise CharlmError(
            f"{trained.folder}: the model reads in both directions, so that the tokens after a "
            "target are context too; measure a model of direction forward or backward"
        )
    if trained.mode == "records":
        raise CharlmError(
            f"{trained.folder}: the model reads records, each from the initial state, so that a "
            "context never reaches beyond the record; measure a model of mode stream"
        )


def _choose_places(num_tokens: int, *, longest: int, targets: int) -> Integers:
    """Return positions of adjacent targets, (places, targets), evenly spaced over a text.

    The places do not overlap: the standard error takes them as independent.
    """
    targets = min(targets, num_tokens - longest)
    size = min(_PLACE, targets)
    firsts = evenly_spaced(longest, num_tokens - size, targets // size)
    return firsts[:, None] + np.arange(size)


def _places_of(named: Sequence[int], ids: Ids, *, longest: int, targets: int) -> Integers:
    """Return positions of named tokens, (places, 1), evenly spaced among all of them."""
    found = np.flatnonzero(np.isin(ids[longest:], named)) + longest
    if len(found) == 0:
        raise CorpusError(
            f"the text has no such token after its first {longest} tokens; name other tokens, or "
            "give a longer text"
        )
    return found[evenly_spaced(0, len(found) - 1, targets)][:, None]


def _losses(
    model: LanguageModel, ids: Ids, places: Integers, length: int, device: torch.device
) -> Floats:
    """Return the loss of each target from a context of `length` tokens, (places, targets)."""
    num_places, size = places.shape
    shared = max(1, min(size, length // _SHARED_FRACTION))
    while size % shared:
        shared -= 1
    firsts = places[:, ::shared].ravel()  # First target of each reading.
    batch = max(1, _MAX_TOKENS_PER_BATCH // (length + shared))
    pieces = [
        _losses_of_readings(model, ids, firsts[at : at + batch], length, shared, device)
        for at in range(0, len(firsts), batch)
    ]
    # (readings, shared) → (places, targets)
    return np.concatenate(pieces).reshape(num_places, size)


def _losses_of_readings(
    model: LanguageModel,
    ids: Ids,
    firsts: Integers,
    length: int,
    shared: int,
    device: torch.device,
) -> Floats:
    """Return the losses of the `shared` targets of each reading, (readings, shared)."""
    time = np.arange(-length, shared)[:, None]
    tokens = torch.from_numpy(ids[firsts + time].astype(np.int64)).to(device)
    log_p, _ = target_log_probabilities(model, tokens[:-1], tokens[1:])
    losses: Floats = -log_p[-shared:].T.double().numpy(force=True)
    return losses


def _rows(lengths: Sequence[int], losses: Sequence[Floats]) -> list[LossAtContext]:
    rows = []
    before = None
    for length, values in zip(lengths, losses, strict=True):
        gains: Floats | None = None if before is None else (before - values).mean(axis=1)
        rows.append(
            LossAtContext(
                context=length,
                loss_nats=float(values.mean()),
                gain_nats=None if gains is None else float(gains.mean()),
                standard_error=None if gains is None else _standard_error(gains),
            )
        )
        before = values
    return rows


def _standard_error(values: Floats) -> float | None:
    if len(values) < 2:
        return None
    return float(values.std(ddof=1)) / math.sqrt(len(values))
