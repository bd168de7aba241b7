"""Corpora built from the Python installation, and the agreement grammar."""

import hashlib
import inspect
import itertools
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.builders import python_texts
from charlm.data.builders.agreement import AgreementSentence, agreement, agreement_sentences
from charlm.data.builders.python_texts import python_docs, python_source, unicode_names
from charlm.data.builders.table import BUILDERS
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CorpusError

CARDS = sorted((Path(__file__).parents[2] / "corpora").glob("*.yaml"))
CARD_KEYS = {
    "title",
    "language",
    "licence",
    "source",
    "kind",
    "mode",
    "builder",
    "parameters",
    "url",
    "sha256",
    "members",
    "separator",
    "strip_lines",
    "valid_share",
    "test_share",
    "level",
}
LEVELS = {"char", "byte", "word", "bpe"}

# The grammar's nouns and verbs, written by hand, so that the tests do not depend on the builder's.
IRREGULAR = {
    "child": "children",
    "fox": "foxes",
    "goose": "geese",
    "lady": "ladies",
    "man": "men",
    "mouse": "mice",
    "thief": "thieves",
    "wolf": "wolves",
    "woman": "women",
}
REGULAR = (
    "actor artist baker bear bird boy cat cook cow dentist doctor dog farmer friend girl goat horse judge "
    "king lion monkey nurse pilot poet queen rabbit sailor singer soldier teacher tiger"
)
PLURALS = IRREGULAR | {singular: f"{singular}s" for singular in REGULAR.split()}
IS_PLURAL = dict.fromkeys(PLURALS, False) | dict.fromkeys(PLURALS.values(), True)
GOLDEN = "c7772e900e4445a27e9220f268ebecf7968cc2bfc1497dcde69b56900d52b3bf"
MAIN_VERBS = {"is": False, "was": False, "has": False, "are": True, "were": True, "have": True}


@pytest.fixture(scope="module")
def docs() -> list[str]:
    """The documents of every tenth file of the standard library, and of `statistics`."""
    root = python_texts._standard_library()
    files = python_texts._library_files(root)
    with patch.object(
        python_texts, "_library_files", lambda root: [*files[::10], root / "statistics.py"]
    ):
        return list(python_docs())


@pytest.fixture(scope="module")
def sources() -> list[str]:
    return list(python_source())


@pytest.fixture(scope="module")
def names() -> list[str]:
    return list(unicode_names())


@pytest.fixture(scope="module")
def sentences() -> list[AgreementSentence]:
    return list(agreement_sentences(sentences=8_000))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty standard library, without help topics."""
    monkeypatch.setattr(python_texts, "_standard_library", lambda: tmp_path)
    monkeypatch.setattr(python_texts, "_help_topics", tuple)
    return tmp_path


def write(path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")


def read_sentence(text: str) -> tuple[int, int, int, int]:
    """Return the positions of subject and verb, and the numbers of nouns and attractors between."""
    words = re.sub(r"[,.]", "", text).split()
    subject = next(position for position, word in enumerate(words) if word in IS_PLURAL)
    verb = next(position for position, word in enumerate(words) if word in MAIN_VERBS)
    between = [IS_PLURAL[word] for word in words[subject + 1 : verb] if word in IS_PLURAL]
    return (
        subject,
        verb,
        len(between),
        sum(plural != IS_PLURAL[words[subject]] for plural in between),
    )


def without_number(text: str) -> str:
    """Replace the subject and the verb; the rest must not depend on their number."""
    words = text.split()
    subject, verb, _, _ = read_sentence(text)
    words[subject] = re.sub(r"\w+", "SUBJECT", words[subject])
    words[verb] = "VERB"
    return " ".join(words)


@pytest.mark.slow
def test_docs_are_about_two_megabytes() -> None:
    documents = list(python_docs())
    assert 1_000_000 < sum(len(document.encode()) for document in documents) < 6_000_000
    assert len(documents) > 2_000


def test_docs_are_distinct_documents_without_form_feeds(docs: list[str]) -> None:
    assert len(set(docs)) == len(docs) > 500
    assert not any("\f" in document for document in docs)
    assert min(map(len, docs)) >= 80


def test_docs_include_help_topics_and_docstrings(docs: list[str]) -> None:
    assert any(document.startswith('The "while" statement') for document in docs)
    # itertools is written in C, so it has no source file.
    assert inspect.cleandoc(itertools.__doc__ or "") not in docs
    assert inspect.getdoc(statistics.median_grouped) in docs


def test_docs_are_distinct_docstrings_of_modules_classes_and_functions(
    library: Path,
) -> None:
    long = "The quick brown fox jumps over the lazy dog, again and again, until the evening comes."
    write(
        library / "first.py",
        f'"""Module. {long}"""\nclass A:\n    """Class.\n\n    {long}\n    """\n',
    )
    write(
        library / "second.py",
        f'async def f():\n    """Function. {long}"""\n    x = "{long} no docstring"\n',
    )
    write(library / "third.py", f'"""Module. {long}"""\ndef g():\n    """Short."""\n')
    assert set(python_docs()) == {f"Module. {long}", f"Class.\n\n{long}", f"Function. {long}"}


def test_files_that_cannot_be_parsed_or_decoded_are_skipped(
    library: Path,
) -> None:
    long = "The quick brown fox jumps over the lazy dog, again and again, until the evening comes."
    write(library / "warns.py", f'"""Warns. {long}"""\nx = "\\d"\ny = x is 1\n')
    write(library / "broken.py", f'"""Broken. {long}"""\nif\n')
    write(library / "half.py", f'"""Half of a pair: \\ud800. {long}"""\n')
    write(library / "feed.py", f'"""Feed.\\f {long}"""\n')
    (library / "latin.py").write_bytes(f'"""Caf\xe9. {long}"""\n'.encode("latin-1"))
    assert set(python_docs()) == {f"Warns. {long}", f"Feed. {long}"}


def test_sources_are_over_ten_megabytes_of_distinct_files_without_form_feeds(
    sources: list[str],
) -> None:
    assert sum(len(source.encode()) for source in sources) > 10_000_000
    assert len(set(sources)) == len(sources) > 400
    assert not any("\f" in source for source in sources)
    assert all(source.strip() for source in sources)


def test_sources_include_the_library_and_exclude_its_tests(sources: list[str]) -> None:
    assert inspect.getsource(statistics) in sources
    assert Path(pytest.__file__).read_text(encoding="utf-8") not in sources


def test_sources_exclude_tests_installed_packages_and_generated_files(library: Path) -> None:
    for name in ("kept.py", "package/kept.py"):
        write(library / name, f"kept = '{name}'\n")
    for name in (
        "test/a.py",
        "json/tests/a.py",
        "idlelib/idle_test/a.py",
        "site-packages/a.py",
        "dist-packages/b/a.py",
        "__pycache__/a.py",
        "config-3.11-linux/a.py",
        "_sysconfigdata__linux.py",
        "empty/__init__.py",
    ):
        write(library / name, "" if name.startswith("empty") else f"left_out = '{name}'\n")
    write(library / "twin.py", "kept = 'kept.py'\n")
    names = sorted(
        ["kept.py", "package/kept.py"], key=lambda name: hashlib.sha256(name.encode()).digest()
    )
    assert list(python_source()) == [f"kept = '{name}'\n" for name in names]


def test_sources_are_read_in_their_declared_encoding(library: Path) -> None:
    (library / "a.py").write_bytes("# -*- coding: latin-1 -*-\n# caf\xe9\x0c\n".encode("latin-1"))
    (library / "b.py").write_bytes(b"# caf\xe9 in no declared encoding\n")
    assert list(python_source()) == ["# -*- coding: latin-1 -*-\n# caf\xe9\n"]


def test_a_python_without_source_files_is_an_error_with_the_folder(library: Path) -> None:
    for name in ("python-docs", "python-source"):
        with pytest.raises(CorpusError, match=re.escape(str(library))):
            list(BUILDERS[name]())


def test_names_are_over_thirty_thousand_distinct_records(names: list[str]) -> None:
    assert len(set(names)) == len(names) > 30_000
    assert all(re.fullmatch(r"[A-Z0-9 ()-]+", name) for name in names)
    assert {"LATIN SMALL LETTER A WITH GRAVE", "PILE OF POO", "CUNEIFORM SIGN GA2 TIMES AN"} <= set(
        names
    )


def test_names_composed_from_a_number_are_excluded(names: list[str]) -> None:
    excluded = [
        "\u4e00",
        "\uac00",
        "\uf900",
        "\U00017000",
        "\U00018800",
        "\U0001b170",
        "\U00018b00",
    ]
    excluded += ["\U00013000", "\U00014400"]
    assert not {unicodedata.name(character, "") for character in excluded} & set(names)


def test_docs_are_in_the_order_of_their_digests(
    docs: list[str],
) -> None:
    assert docs == sorted(docs, key=lambda document: hashlib.sha256(document.encode()).digest())


def test_agreement_is_the_same_in_every_run(sentences: list[AgreementSentence]) -> None:
    assert list(agreement(sentences=8_000)) == [sentence.text for sentence in sentences]


def test_every_tenth_sentence_of_the_corpus_agreement_begins_with_a_small_letter(
    sentences: list[AgreementSentence],
) -> None:
    parameters = yaml.safe_load(Path(CARDS[0]).read_text(encoding="utf-8"))["parameters"]
    texts = list(agreement(**parameters | {"sentences": 8_000}))
    small = [number for number, text in enumerate(texts, start=1) if text.startswith("the ")]
    assert small == list(range(10, 8_001, 10))
    assert [text[:1].upper() + text[1:] for text in texts] == [each.text for each in sentences]
    tokenizer = learn_tokenizer(["\n".join(texts)], Section(level="word"))
    assert tokenizer.find_unknown(texts[9]) == [] != tokenizer.find_unknown("these cats")


def test_agreement_has_the_requested_number_of_distinct_sentences(
    sentences: list[AgreementSentence],
) -> None:
    assert len({sentence.text for sentence in sentences}) == len(sentences) == 8_000
    assert len(list(agreement(sentences=1))) == 1
    assert all(re.fullmatch(r"The [a-z, ]+\.", sentence.text) for sentence in sentences)


def test_sentences_of_a_seed_are_the_same_in_every_version_of_python() -> None:
    text = "\n".join(agreement(sentences=1_000, seed=1))
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN, (
        "the sentences changed: update GOLDEN only together with every score measured on them"
    )


def test_another_seed_gives_other_sentences() -> None:
    assert not set(agreement(sentences=100, seed=2, longest=4)) >= set(
        agreement(sentences=100, seed=3)
    )


def test_the_verb_agrees_with_the_subject_and_the_wrong_verb_does_not(
    sentences: list[AgreementSentence],
) -> None:
    for sentence in sentences:
        words = re.sub(r"[,.]", "", sentence.text).split()
        subject, verb, _, _ = read_sentence(sentence.text)
        assert words[verb] == sentence.verb
        assert IS_PLURAL[words[subject]] == MAIN_VERBS[sentence.verb] == sentence.subject_is_plural
        assert MAIN_VERBS[sentence.wrong_verb] != sentence.subject_is_plural
        assert sentence.text == f"{sentence.prefix} {sentence.verb} {sentence.rest}"
        assert sentence.wrong_text == f"{sentence.prefix} {sentence.wrong_verb} {sentence.rest}"
        assert ("been" in words) == (sentence.verb in {"has", "have"})


def test_distance_nouns_and_attractors_are_those_counted_in_the_text(
    sentences: list[AgreementSentence],
) -> None:
    for sentence in sentences:
        subject, verb, nouns, attractors = read_sentence(sentence.text)
        assert sentence.distance == verb - subject - 1
        assert sentence.nouns == nouns
        assert sentence.attractors == attractors


def test_distances_range_from_zero_to_nineteen_words(sentences: list[AgreementSentence]) -> None:
    distances = Counter(sentence.distance for sentence in sentences)
    assert {0, *range(3, 19)} <= set(distances)
    assert max(distances) >= 19
    assert {(sentence.nouns, sentence.attractors) for sentence in sentences} == {
        (nouns, attractors) for nouns in range(4) for attractors in range(nouns + 1)
    }


def test_every_noun_occurs(sentences: list[AgreementSentence]) -> None:
    words = Counter(word.strip(",.") for sentence in sentences for word in sentence.text.split())
    assert set(IS_PLURAL) <= set(words)
    assert len(PLURALS) == 40
    assert len(words) > 150


@given(seed=st.integers(0, 2**31), longest=st.integers(0, 16), most_nouns=st.integers(0, 16))
@settings(max_examples=50, deadline=None)
def test_the_number_of_the_subject_changes_only_the_subject_and_the_verb(
    seed: int, longest: int, most_nouns: int
) -> None:
    def of_number(plural: bool) -> Iterator[AgreementSentence]:
        return agreement_sentences(
            sentences=50,
            seed=seed,
            longest=longest,
            most_nouns=most_nouns,
            subject_is_plural=plural,
        )

    for singular, plural in zip(of_number(False), of_number(True), strict=True):
        assert (singular.subject_is_plural, plural.subject_is_plural) == (False, True)
        assert singular.text != plural.text
        assert without_number(singular.text) == without_number(plural.text)
        assert singular.nouns_are_plural == plural.nouns_are_plural


def test_the_words_between_subject_and_verb_are_independent_of_the_number(
    sentences: list[AgreementSentence],
) -> None:
    by_number: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    totals: Counter[bool] = Counter()
    for sentence in sentences:
        _, *between = without_number(sentence.text).split("SUBJECT")
        words = between[0].split("VERB")[0].replace(",", "").split()
        by_number[sentence.subject_is_plural].update({*words, f"distance {sentence.distance}"})
        totals[sentence.subject_is_plural] += 1
    assert abs(totals[True] / len(sentences) - 0.5) < 0.02
    for word in by_number[False] | by_number[True]:
        shares = [by_number[plural][word] / totals[plural] for plural in (False, True)]
        # Four standard errors of the difference of two shares, plus one count for the rarest words.
        share = statistics.mean(shares)
        error = 4 * (share * (1 - share) * 4 / len(sentences)) ** 0.5 + 1e-3
        assert abs(shares[0] - shares[1]) < error, word


@given(longest=st.integers(0, 16), most_nouns=st.integers(0, 16))
@settings(max_examples=30, deadline=None)
def test_no_sentence_has_more_phrases_or_nouns_than_allowed(longest: int, most_nouns: int) -> None:
    for sentence in agreement_sentences(sentences=30, longest=longest, most_nouns=most_nouns):
        _, _, nouns, _ = read_sentence(sentence.text)
        assert nouns <= min(longest, most_nouns)
        assert sentence.distance <= 6 * longest


def test_a_parameter_out_of_range_is_an_error_with_its_name_and_value() -> None:
    for name, value in (
        ("sentences", 0),
        ("sentences", "40000"),
        ("sentences", True),
        ("seed", -1),
        ("seed", 1.5),
        ("longest", -1),
        ("longest", 17),
        ("most_nouns", -1),
        ("most_nouns", 17),
    ):
        expected = rf"^agreement: {name} must be .*, got {re.escape(repr(value))}; "
        with pytest.raises(CorpusError, match=expected):
            BUILDERS["agreement"](**{name: value})


def test_more_sentences_than_the_grammar_has_are_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("charlm.data.builders.agreement._MAX_REPETITIONS", 20)
    with pytest.raises(CorpusError, match="got 1000000; request fewer"):
        list(agreement(sentences=1_000_000, longest=0))


def test_every_builder_has_a_card_with_valid_parameters() -> None:
    cards = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in CARDS]
    of_python = {card["builder"]: card for card in cards if card["kind"] == "python"}
    assert set(of_python) == set(BUILDERS)
    for name, card in of_python.items():
        inspect.signature(BUILDERS[name]).bind(**card.get("parameters", {}))


def test_every_card_has_its_purpose_and_known_keys() -> None:
    for path in CARDS:
        text = path.read_text(encoding="utf-8")
        card = yaml.safe_load(text)
        assert text.startswith("# Good for: "), path
        assert set(card) <= CARD_KEYS, path
        assert {"title", "language", "licence", "source", "kind", "mode", "level"} <= set(card)
        assert card["mode"] in {"stream", "records"}, path
        assert card["level"] in LEVELS, path
        assert ("url" in card) == (card["kind"] == "url"), path
        has_own_parts = {"train", "valid", "test"} == set(card.get("members", {}))
        assert has_own_parts != ("valid_share" in card and "test_share" in card), path
