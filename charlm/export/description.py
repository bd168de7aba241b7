"""A trained model as JSON for the JavaScript engine: network, weights, tokenizer, and facts."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charlm.config.cell import cell_title
from charlm.config.model import Model as ModelSection
from charlm.config.tokenizer import TOKEN_NAMES
from charlm.data.cards import Card, card_names, load_card
from charlm.data.listing import title_of, title_without_folders
from charlm.data.tokenizer import EOS, Tokenizer
from charlm.errors import counted
from charlm.export.targets import Precision
from charlm.export.weights import pack_weights
from charlm.model.language_model import LanguageModel, count_parameters
from charlm.runs.metrics import read_metrics
from charlm.trained_model import TrainedModel
from charlm.version import VERSION

# Fields of the configuration that decide which weights a network has, and what it computes.
NETWORK_FIELDS = (
    "cell",
    "hidden_size",
    "num_layers",
    "embedding_size",
    "ngrams",
    "ngram_buckets",
    "skip",
    "layer_norm",
    "block",
    "mlp_expansion",
    "initial_state",
    "tied",
    "mixture",
    "adaptive_cutoffs",
)
_MAX_TITLES = 3


@dataclass(frozen=True)
class About:
    """What a page tells its reader about a model.

    Attributes:
        title: Title of the corpus; of the user's own files, their names without folders.
        licence: Licence of the text.
        source: Origin of the text; empty for the user's own files.
        network: Kind, layers and units of the network.
        parameters: Number of parameters.
        score: Score on the validation text, in a sentence.
        token: Name of a token, such as "character".
        precision: Precision of the weights.
        version: Version of charlm.
        separator: What the corpus has between two records.
    """

    title: str
    licence: str
    source: str
    network: str
    parameters: int
    score: str
    token: str
    precision: Precision
    version: str
    separator: str


def describe(trained: TrainedModel, precision: Precision) -> dict[str, Any]:
    """Return what the class `Model` of the engine reads."""
    return {
        "about": vars(describe_model(trained, precision)),
        "records": trained.writes_records,
        "backward": not trained.is_forward,
        **describe_network(trained.model, trained.config.model, precision),
        "tokenizer": describe_tokenizer(trained.tokenizer),
    }


def describe_network(
    model: LanguageModel, section: ModelSection, precision: Precision
) -> dict[str, Any]:
    """Return what the class `Network` of the engine reads.

    Args:
        model: Model of one direction.
        section: Its configuration. A pretrained embedding is written as a learned one.
        precision: Precision of the matrices; vectors are always in fp32.
    """
    weights = pack_weights(model, precision)
    network = section.model_dump(mode="json", include=set(NETWORK_FIELDS))
    network["embedding"] = "one_hot" if section.embedding == "one_hot" else "learned"
    network["vocabulary_size"] = model.vocabulary_size
    network["cell_sizes"] = [cell.hidden_size for cell in model.encoder.recurrence.layers]
    return {
        "network": network,
        "tensors": weights.tensors,
        "weights": base64.b64encode(weights.data).decode(),
    }


def describe_tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return level, options, tokens and merges; see `Tokenizer` in tokenizer.js."""
    section = tokenizer.section
    description: dict[str, Any] = {
        "level": section.level,
        "normalization": section.normalization,
        "lowercase": section.lowercase,
        "whitespace": tokenizer.separates_by_space,
        "eos": tokenizer.decode([EOS]),
    }
    if section.level != "byte":
        encoding = "latin-1" if section.level == "bpe" else "utf-8"
        description["tokens"] = [token.decode(encoding) for token in tokenizer.token_bytes[2:]]
    if section.level == "bpe":
        merges = json.loads(tokenizer.to_json())["model"]["merges"]
        ids = (tokenizer.library.token_to_id(part) for pair in merges for part in pair)
        description["merges"] = list(ids)
    return description


def describe_model(trained: TrainedModel, precision: Precision) -> About:
    """Return what a page tells its reader."""
    parameters = sum(size for _, _, size in count_parameters(trained.model))
    names = trained.config.corpus.text
    cards = {name: load_card(name) for name in names if name in card_names()}
    return About(
        title=_title(names, cards),
        licence=_licence(names, cards),
        source=" ".join(card.source for card in cards.values()),
        network=_network(trained.config.model),
        parameters=parameters,
        score=_score(trained),
        token=TOKEN_NAMES[trained.tokenizer.section.level].removesuffix("s"),
        precision=precision,
        version=VERSION,
        separator=trained.record_separator or "\n",
    )


def _title(names: Sequence[str], cards: dict[str, Card]) -> str:
    titles = [
        cards[name].title if name in cards else title_without_folders(title_of([name]))
        for name in names
    ]
    more = f" and {len(titles) - _MAX_TITLES} more" if len(titles) > _MAX_TITLES else ""
    return ", ".join(titles[:_MAX_TITLES]) + more


def _licence(names: Sequence[str], cards: dict[str, Card]) -> str:
    licences = [cards[name].licence if name in cards else "not stated" for name in names]
    return ", ".join(dict.fromkeys(licences))


def _network(section: ModelSection) -> str:
    """Return kind and size of a network, such as "LSTM, 2 layers of 512 units"."""
    sizes = section.hidden_sizes
    around = " in Griffin blocks" if section.block == "griffin" else ""
    around += " in each direction" if section.direction == "both" else ""
    kind = cell_title(section.cell.kind)
    units = counted(sizes[0], "unit")
    if len(sizes) == 1:
        return f"{kind}, {units}{around}"
    if len(set(sizes)) == 1:
        return f"{kind}, {len(sizes)} layers of {units}{around}"
    return f"{kind}, layers of {', '.join(map(str, sizes))} units{around}"


def _score(trained: TrainedModel) -> str:
    """Return the validation score of the checkpoint, or that there is none."""
    step = trained.origin.state.get("step")
    lines = [line for line in read_metrics(trained.folder) if line.get("step") == step]
    score = lines[-1] if lines else {}
    if "loss_nats" not in score:
        return "not measured"
    sentence = f"{score['loss_nats']:.3f} nats per token"
    if trained.tokenizer.section.level == "word":
        return f"{sentence} (perplexity {score['perplexity']:.1f}) on held-out text"
    bits = score.get("bits_per_character")
    return f"{sentence}{f' ({bits:.3f} bits per character)' if bits else ''} on held-out text"
