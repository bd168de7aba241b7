"""Decide, once, what a configuration leaves open: from the corpus card, else from the default."""

from charlm.config.corpus import RULES, TEST_SHARE, VALID_SHARE, Corpus, Mode, Record
from charlm.config.load import check_resolved
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.tokenizer import Level, Tokenizer
from charlm.data.cards import Card, card_names, corpus_files, load_card
from charlm.data.listing import absolute_names
from charlm.data.sources import are_tables, first_field_names
from charlm.data.tables import choose_fields
from charlm.errors import ConfigError


def resolve(config: Config) -> ResolvedConfig:
    """Return the configuration with every open field of the corpus and the tokenizer decided.

    A field that is set stays as it is. Paths become absolute, and standard input becomes a file, so
    that the result names the same text from any folder. Resolving twice changes nothing.

    Raises:
        CorpusError: The card of the corpus has mistakes, or standard input cannot be read.
        ConfigError: The level that the card suggests does not fit the other tokenizer settings.
    """
    card = card_of(config.corpus)
    level = _level(config.tokenizer, card)
    data = dict(config) | {
        "corpus": _corpus_fields(config, card),
        "tokenizer": config.tokenizer.model_dump(exclude_unset=True) | {"level": level},
    }
    return check_resolved(data, config.corpus.text[0])


def card_of(corpus: Corpus) -> Card | None:
    """Return the card of the corpus, or None if the text is not the name of a corpus."""
    is_name = len(corpus.text) == 1 and corpus.text[0] in card_names()
    return load_card(corpus.text[0]) if is_name else None


def texts_like(config: ResolvedConfig, names: tuple[str, ...]) -> ResolvedConfig:
    """Return a configuration that reads other texts, whole, as `config` reads its own corpus."""
    whole = {
        "text": names,
        "valid_text": None,
        "test_text": None,
        "valid_share": 0.0,
        "test_share": 0.0,
    }
    corpus = config.corpus.model_copy(update=whole)
    return resolve(config.model_copy(update={"corpus": corpus}))


def _level(tokenizer: Tokenizer, card: Card | None) -> Level:
    if card is None or "level" in tokenizer.model_fields_set:
        return tokenizer.level
    return card.level


def _corpus_fields(config: Config, card: Card | None) -> dict[str, object]:
    """Return the fields of a `ResolvedCorpus`."""
    corpus = config.corpus
    files = corpus_files(corpus.text[0], card) if card else {}
    own = {part: (str(path),) for part, path in files.items()}
    valid_text = corpus.valid_text or own.get("valid")
    test_text = corpus.test_text or own.get("test")
    mode = corpus.mode or (card.mode if card else "stream")
    mode = "records" if config.task.has_pairs else mode
    decided = {
        "text": corpus.text if card else absolute_names(corpus.text),
        "valid_text": absolute_names(valid_text),
        "test_text": absolute_names(test_text),
        "mode": mode,
        "record": _record(config, card, mode),
        "valid_share": _first(
            corpus.valid_share,
            0.0 if valid_text else None,
            card.valid_share if card else None,
            VALID_SHARE,
        ),
        "test_share": _first(
            corpus.test_share,
            0.0 if test_text else None,
            card.test_share if card else None,
            TEST_SHARE,
        ),
        "split": corpus.split or ("shuffled" if mode == "records" else "contiguous"),
        "rules": corpus.rules or RULES,
        "copies": corpus.copies or "together",
        "separator": corpus.separator or (card.separator if card else None),
    }
    return corpus.model_dump() | decided | _pair_fields(config, card)


def _pair_fields(config: Config, card: Card | None) -> dict[str, str]:
    """Return the fields of a table with the source and the target of each pair."""
    corpus = config.corpus
    rules = corpus.rules or RULES
    is_open = config.task.has_pairs and (corpus.source is None or corpus.target is None)
    if not is_open or card is not None or not are_tables(corpus.text, rules=rules, pairs=True):
        return {}
    names = first_field_names(corpus.text, rules=rules, encoding=corpus.encoding)
    source, target = choose_fields(names, corpus.source, corpus.target)
    return {"source": source, "target": target}


def _record(config: Config, card: Card | None, mode: Mode) -> Record:
    """Return what a record is."""
    corpus = config.corpus
    ends_lines = config.tokenizer.words == "whitespace"
    if mode == "records" and corpus.record == "document" and ends_lines:
        raise ConfigError(
            "corpus.record: must be line with tokenizer.words: whitespace, where each line ends "
            "with <EOS>, got document; remove one of the two"
        )
    if corpus.record is not None or mode == "stream" or ends_lines:
        return corpus.record or "line"
    has_separator = corpus.separator or (card is not None and card.separator)
    rules, pairs = corpus.rules or RULES, config.task.has_pairs
    is_table = card is None and are_tables(corpus.text, rules=rules, pairs=pairs)
    return "document" if has_separator or is_table else "line"


def _first(*values: float | None) -> float:
    """Return the first value that is not None."""
    return next(value for value in values if value is not None)
