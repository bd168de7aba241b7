"""The text of an ancestor: replayed against forgetting, and scored to measure it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from charlm.config.corpus import Mode, ResolvedCorpus
from charlm.config.schema import ResolvedConfig
from charlm.data.cards import Part, cache_folder
from charlm.data.corpus import open_corpus
from charlm.data.restarts import eos_ends
from charlm.data.tokenizer import Ids, Tokenizer
from charlm.data.tokens import Tokens, encode_text
from charlm.data.windows.scoring import windows_to_score
from charlm.errors import CharlmError, ConfigError
from charlm.model.language_model import LanguageModel
from charlm.training.devices import Hardware
from charlm.training.loss import score

# From this many tokens a loss is known to about a hundredth of a nat, in a fraction of a second.
_SCORED_TOKENS = 20_000
_STREAMS = 8
_FORGOTTEN_NATS = 0.1  # A smaller rise is not worth a line of advice.
ANCESTOR_LOSS = "ancestor_loss_nats"


@dataclass(frozen=True)
class OldText:
    """The text of an ancestor, in the ids of the run that continues from it.

    Attributes:
        mode: How the text is read.
        tokens: Token ids by parts: `valid` is scored, and `train` is replayed.
    """

    mode: Mode
    tokens: Mapping[Part, Tokens]

    def loss_nats(self, model: LanguageModel, hardware: Hardware) -> float | None:
        """Return the mean loss of the beginning of the validation part; None without one.

        Args:
            model: Model, in evaluation mode during the call.
            hardware: Device and precision of the model.
        """
        if "valid" not in self.tokens:
            return None
        windows = windows_to_score(
            _beginning(self.tokens["valid"].ids, self.mode),
            mode=self.mode,
            direction=model.direction,
            streams=_STREAMS,
        )
        return score(model, windows, device=hardware.device, precision=hardware.precision).loss_nats


def open_old_text(
    facts: Mapping[str, Any], config: ResolvedConfig, tokenizer: Tokenizer
) -> OldText:
    """Read and encode the text of an ancestor.

    Args:
        facts: What corpus.json records about the ancestor.
        config: Configuration of the run that continues from it.
        tokenizer: Tokenizer of that run.

    Raises:
        CharlmError: The text cannot be read, is not known, or has changed since the ancestor was
            trained.
    """
    if not facts["fingerprints"]:
        raise CharlmError(f"{facts['name']} was imported without its training text")
    try:
        section = ResolvedCorpus.model_validate(facts["corpus"])
    except ValidationError:
        raise CharlmError("corpus.json: the corpus of the ancestor is damaged") from None
    corpus = open_corpus(config.model_copy(update={"corpus": section}))
    wanted: list[Part] = ["valid", "train"] if config.training.replay else ["valid"]
    tokens: dict[Part, Tokens] = {}
    for part in wanted:
        if part not in corpus.parts:
            continue
        text = corpus.parts[part]
        if text.fingerprint != facts["fingerprints"].get(part):
            raise CharlmError(f"the {part} text of {facts['name']} has changed since its training")
        tokens[part] = encode_text(
            text, tokenizer, mode=section.mode, cache=cache_folder() / "tokens"
        )
    return OldText(mode=section.mode, tokens=tokens)


def old_text_or_notice(
    facts: Mapping[str, Any] | None, config: ResolvedConfig, tokenizer: Tokenizer
) -> tuple[OldText | None, tuple[str, ...]]:
    """Return the text of an ancestor, if there is one and it can be read; else a line about it.

    Raises:
        ConfigError: The text is to be replayed, and cannot be.
    """
    replay = config.training.replay
    if replay and facts is None:
        raise ConfigError(
            f"training.replay: {replay:g} of the tokens are to be those of an ancestor, but there "
            "is none; name one with --from, or remove the setting"
        )
    if replay and config.model.direction != "forward":
        raise ConfigError(
            "training.replay: needs a model that reads forward, got model.direction: "
            f"{config.model.direction}; remove training.replay"
        )
    if facts is None:
        return None, ()
    try:
        return open_old_text(facts, config, tokenizer), ()
    except CharlmError as error:
        if replay:
            raise ConfigError(
                f"training.replay: the text of {facts['name']} is needed; provide it, or remove "
                f"the setting: {error}"
            ) from None
        return None, (f"what the model forgets is not measured: {error}",)


def forgetting(
    facts: Mapping[str, Any] | None, history: Sequence[Mapping[str, Any]], *, replay: float
) -> Iterator[str]:
    """Yield a line about the score on the ancestor's text, before and after a training.

    Args:
        facts: What corpus.json records about the ancestor; None without one.
        history: Lines of metrics.jsonl.
        replay: Fraction of the old text in the training.
    """
    scored = [
        line for line in history if line.get(ANCESTOR_LOSS) is not None and line.get("is_best")
    ]
    if facts is None or not scored or facts.get("start_loss_nats") is None:
        return
    before, after = facts["start_loss_nats"], scored[-1][ANCESTOR_LOSS]
    is_forgotten = after > before + _FORGOTTEN_NATS and not replay
    advice = "; --set training.replay=0.1 keeps more of it" if is_forgotten else ""
    yield (
        f"validation text of {facts['name']}: {before:.3f} nats per token before training, "
        f"{after:.3f} after it{advice}"
    )


def _beginning(ids: Ids, mode: Mode) -> Ids:
    """Return the first ids of a text, of whole records."""
    first = np.asarray(ids[:_SCORED_TOKENS])
    if mode == "stream" or len(first) == len(ids):
        return first
    ends = eos_ends(first)
    return first[: ends[-1]] if len(ends) else np.asarray(ids)
