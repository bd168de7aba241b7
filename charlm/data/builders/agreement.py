"""Sentences of a small grammar, with words between the subject and its verb."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charlm.data.builders.choices import RandomChoices, check_range, split_words
from charlm.errors import CorpusError


class _Noun(NamedTuple):
    singular: str
    plural: str
    relative: str  # Pronoun of a clause between commas.

    def form(self, is_plural: bool) -> str:
        return self.plural if is_plural else self.singular


def _nouns(text: str, relative: str) -> list[_Noun]:
    pairs = (forms.split("/") for forms in split_words(text))
    return [_Noun(singular, plural, relative) for singular, plural in pairs]


_PERSONS = _nouns(
    """actor/actors artist/artists baker/bakers boy/boys child/children cook/cooks dentist/dentists
    doctor/doctors farmer/farmers friend/friends girl/girls judge/judges king/kings lady/ladies
    man/men nurse/nurses pilot/pilots poet/poets queen/queens sailor/sailors singer/singers
    soldier/soldiers teacher/teachers thief/thieves woman/women""",
    relative="who",
)
_ANIMALS = _nouns(
    """bear/bears bird/birds cat/cats cow/cows dog/dogs fox/foxes goat/goats goose/geese
    horse/horses lion/lions monkey/monkeys mouse/mice rabbit/rabbits tiger/tigers wolf/wolves""",
    relative="which",
)
_NOUNS = [*_PERSONS, *_ANIMALS]
# The past tense is the same in singular and plural, so no word before the main verb has a number.
_TRANSITIVE_VERBS = split_words(
    """admired avoided called chased followed forgot found greeted heard helped kissed liked met
    missed noticed pushed remembered saw touched trusted visited watched"""
)
_INTRANSITIVE_VERBS = split_words("ate danced laughed ran rested sang slept stood waited worked")
_PLACES = split_words("alone downstairs here inside nearby outdoors outside there upstairs")
_ADVERBS = split_words(
    "already always happily never often once quietly rarely secretly sometimes suddenly"
)
_PREPOSITIONS = split_words("above behind below beside beyond near opposite with")
_ATTRIBUTES = split_words("brave clever fat gentle grey little old small strange strong tall young")
_PREDICATES = split_words(
    "angry asleep awake bored calm cold full happy hungry late lost ready sad thirsty tired"
)


class _VerbPair(NamedTuple):
    singular: str
    plural: str
    continuation: str


# Neither form of a pair begins with the other, so a character model can be asked as well.
_MAIN_VERBS = (
    _VerbPair("is", "are", ""),
    _VerbPair("was", "were", ""),
    _VerbPair("has", "have", "been "),
)
MAX_PHRASES = 16
MAX_NOUNS = 16
# After this many repeated sentences in a row, the grammar has hardly any new sentence left.
_MAX_REPETITIONS = 1000


@dataclass(frozen=True)
class AgreementSentence:
    """A sentence with words between the subject and its verb.

    Linzen et al. 2016, arXiv:1611.01368.

    Attributes:
        prefix: Text before the verb, without the space between them.
        verb: Verb in the number of the subject.
        wrong_verb: Verb in the other number.
        rest: Text after the verb, without the space between them.
        subject_is_plural: Whether the subject is plural.
        distance: Number of words between the subject and its verb.
        nouns_are_plural: Whether each noun between the subject and its verb is plural, in order.
    """

    prefix: str
    verb: str
    wrong_verb: str
    rest: str
    subject_is_plural: bool
    distance: int
    nouns_are_plural: tuple[bool, ...]

    @property
    def text(self) -> str:
        """The sentence, such as "The cats, which already saw the dog, were full"."""
        return f"{self.prefix} {self.verb} {self.rest}"

    @property
    def wrong_text(self) -> str:
        """The sentence with the verb in the wrong number: the other half of the minimal pair."""
        return f"{self.prefix} {self.wrong_verb} {self.rest}"

    @property
    def nouns(self) -> int:
        """Number of nouns between the subject and its verb."""
        return len(self.nouns_are_plural)

    @property
    def attractors(self) -> int:
        """Number of nouns between subject and verb that differ from the subject in number."""
        return sum(is_plural != self.subject_is_plural for is_plural in self.nouns_are_plural)


def agreement(
    *,
    sentences: int = 40_000,
    seed: int = 1,
    longest: int = 4,
    most_nouns: int = 3,
    uncapitalized: int = 0,
) -> Iterator[str]:
    """Generate the text of sentences with words between the subject and its verb.

    Args:
        sentences: Number of sentences; all are distinct.
        seed: Seed of the random choices.
        longest: Largest number of phrases between subject and verb, 0 to 16, of 3 to 6 words each.
        most_nouns: Largest number of nouns between subject and verb, 0 to 16.
        uncapitalized: Every sentence of this number begins with a small letter, so that a model
            can read such a sentence: 10 is every tenth, 0 none.

    Returns:
        Sentences such as "The cats, which already saw the dog, were full.".

    Raises:
        CorpusError: A parameter is out of range. While iterating: the grammar has fewer sentences.
    """
    stream = agreement_sentences(
        sentences=sentences, seed=seed, longest=longest, most_nouns=most_nouns
    )
    check_range("uncapitalized", uncapitalized, 0, sys.maxsize, builder="agreement")
    return (
        _uncapitalize(sentence.text)
        if uncapitalized and number % uncapitalized == 0
        else sentence.text
        for number, sentence in enumerate(stream, start=1)
    )


def capitalize(sentence: str) -> str:
    """Return a sentence with a capital, as the grammar draws it."""
    return sentence[:1].upper() + sentence[1:]


def _uncapitalize(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def agreement_sentences(
    *,
    sentences: int = 40_000,
    seed: int = 1,
    longest: int = 4,
    most_nouns: int = 3,
    subject_is_plural: bool | None = None,
) -> Iterator[AgreementSentence]:
    """Generate the sentences of `agreement` with their properties.

    Args:
        sentences: Number of sentences; all are distinct.
        seed: Seed of the random choices.
        longest: Largest number of phrases between subject and verb, 0 to 16, of 3 to 6 words each.
        most_nouns: Largest number of nouns between subject and verb, 0 to 16.
        subject_is_plural: Number of every subject; None draws singular and plural equally often.
            Only the subject and the verb depend on it.

    Returns:
        The sentences, in the order in which they are drawn.

    Raises:
        CorpusError: A parameter is out of range. While iterating: the grammar has fewer sentences.
    """
    check_range("sentences", sentences, 1, sys.maxsize, builder="agreement")
    check_range("seed", seed, 0, sys.maxsize, builder="agreement")
    check_range("longest", longest, 0, MAX_PHRASES, builder="agreement")
    check_range("most_nouns", most_nouns, 0, MAX_NOUNS, builder="agreement")
    return _distinct(_draw_sentences(seed, longest, most_nouns, subject_is_plural), sentences)


def _distinct(drawn: Iterator[AgreementSentence], wanted: int) -> Iterator[AgreementSentence]:
    """Yield `wanted` distinct sentences, so that no part of a split repeats another part."""
    seen: set[str] = set()
    repetitions = 0
    for sentence in drawn:
        if sentence.text not in seen:
            seen.add(sentence.text)
            repetitions = 0
            yield sentence
        else:
            repetitions += 1
        if len(seen) == wanted:
            return
        if repetitions == _MAX_REPETITIONS:
            raise CorpusError(
                f"agreement: sentences must be at most about {len(seen)} for this grammar, "
                f"got {wanted}; request fewer, or raise longest"
            )


def _draw_sentences(
    seed: int, longest: int, most_nouns: int, subject_is_plural: bool | None
) -> Iterator[AgreementSentence]:
    """Draw sentences forever."""
    choices = RandomChoices(seed)
    while True:
        # It is drawn even if it is given, so that later choices do not depend on that.
        drawn = choices.coin()
        is_plural = drawn if subject_is_plural is None else subject_is_plural
        yield _draw_sentence(choices, longest, most_nouns, is_plural)


def _draw_sentence(
    choices: RandomChoices, longest: int, most_nouns: int, is_plural: bool
) -> AgreementSentence:
    noun, *intervening = choices.distinct(_NOUNS, 1 + most_nouns)
    subject = ["The", *choices.maybe(_ATTRIBUTES), noun.form(is_plural)]
    modifiers = _Modifiers(choices, intervening)
    num_phrases = choices.below(longest + 1)
    words = modifiers.draw(num_phrases) if num_phrases else []
    if words[:1] == ["that"] and choices.coin():
        subject, words = _with_comma(subject), [noun.relative, *_with_comma(words[1:])]
    pair = choices.one(_MAIN_VERBS)
    return AgreementSentence(
        prefix=" ".join(subject + words),
        verb=pair.plural if is_plural else pair.singular,
        wrong_verb=pair.singular if is_plural else pair.plural,
        rest=f"{pair.continuation}{choices.one(_PREDICATES)}.",
        subject_is_plural=is_plural,
        distance=len(words),
        nouns_are_plural=tuple(modifiers.nouns_are_plural),
    )


def _with_comma(words: list[str]) -> list[str]:
    return [*words[:-1], f"{words[-1]},"]


class _Modifiers:
    """Draws the words between a subject and its verb, without knowing the subject or its number.

    A phrase follows the noun that it modifies, and the other phrases modify the noun inside it:
    they form chains ("near the dog that saw the cats") or nest ("that the dog near the cats saw").

    Attributes:
        nouns_are_plural: Whether each noun drawn so far is plural, in the order of the text.
    """

    def __init__(self, choices: RandomChoices, nouns: list[_Noun]) -> None:
        self._choices = choices
        self._nouns = iter(nouns)
        self._nouns_left = len(nouns)
        self.nouns_are_plural: list[bool] = []

    def draw(self, num_phrases: int) -> list[str]:
        """Draw the words that modify a noun, in `num_phrases` phrases, at least one."""
        shapes = [self._subject_clause]
        if self._nouns_left:
            shapes += [self._prepositional_phrase, self._object_clause]
        return self._choices.one(shapes)(num_phrases - 1)

    def _prepositional_phrase(self, num_phrases: int) -> list[str]:
        return [self._choices.one(_PREPOSITIONS), *self._noun_phrase(num_phrases)]

    def _subject_clause(self, num_phrases: int) -> list[str]:
        return ["that", *self._verb_phrase(num_phrases)]

    def _object_clause(self, num_phrases: int) -> list[str]:
        return ["that", *self._noun_phrase(num_phrases), *self._verb(_TRANSITIVE_VERBS)]

    def _noun_phrase(self, num_phrases: int) -> list[str]:
        self._nouns_left -= 1
        is_plural = self._choices.coin()
        self.nouns_are_plural.append(is_plural)
        words = ["the", *self._choices.maybe(_ATTRIBUTES), next(self._nouns).form(is_plural)]
        return words + self.draw(num_phrases) if num_phrases else words

    def _verb_phrase(self, num_phrases: int) -> list[str]:
        if self._nouns_left and self._choices.below(4):
            return [*self._verb(_TRANSITIVE_VERBS), *self._noun_phrase(num_phrases)]
        words = [*self._verb(_INTRANSITIVE_VERBS), self._choices.one(_PLACES)]
        return [*words, "and", *self._verb_phrase(num_phrases - 1)] if num_phrases else words

    def _verb(self, verbs: Sequence[str]) -> list[str]:
        return [*self._choices.maybe(_ADVERBS), self._choices.one(verbs)]
