"""Open a corpus from its section alone, at tokenizer level char or byte."""

from charlm.config.corpus import Corpus as CorpusSection
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.tokenizer import Tokenizer
from charlm.data.corpus import Corpus, open_corpus
from charlm.data.resolve import resolve


def resolved(section: CorpusSection, *, raw: bool = False) -> ResolvedConfig:
    """Return a resolved configuration of this corpus section."""
    tokenizer = Tokenizer(level="byte") if raw else Tokenizer()
    return resolve(Config(corpus=section, tokenizer=tokenizer))


def opened(section: CorpusSection, *, raw: bool = False) -> Corpus:
    """Return the corpus of a section."""
    return open_corpus(resolved(section, raw=raw))
