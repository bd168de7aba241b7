"""A trained model writes: samples, searches, fills a gap, streams."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import EOS
from charlm.data.written_form import written_form
from charlm.errors import CharlmError, CheckpointError
from charlm.model.log_probabilities import sequence_log_probabilities
from charlm.sampling.beam_search import beam_search, normalized
from charlm.sampling.constraints.banned_text import BannedText
from charlm.sampling.constraints.copy_limit import (
    CopyLimit,
    text_to_index,
    without_long_copies,
)
from charlm.sampling.constraints.regex import RegexConstraint, automaton_of
from charlm.sampling.fill import fill
from charlm.sampling.filters import Filters
from charlm.sampling.generator import Constraint, Generator, Settings
from charlm.sampling.novelty import NoveltyFilter
from charlm.sampling.saved_state import (
    GenerationState,
    place_from_bytes,
    place_to_bytes,
    weights_checksum,
)
from charlm.sampling.text_stream import StopCondition, TextBatch, TextStream
from charlm.storage.atomic import atomic_write
from charlm.trained_model import (
    TrainedModel,
    encode,
    encode_prompt,
    require_one_direction,
    training_texts,
)

_ATTEMPTS_PER_NOVEL_TEXT = 50
_GAP = re.compile("_{3,}")
# Makes the constraints of so many sequences, which all go on from these ids, as the model reads them.
Constraints = Callable[[int, list[int]], Sequence[Constraint]]


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote.

    Attributes:
        number: Which of the seed's sequences it is; of a beam search, its rank.
        prompt: What it was given to begin with.
        text: Prompt and what the model added. A stop string, or the last of so many characters, may stand in the midst
            of the last token.
        tokens: Ids that the model added, in the order it wrote them.
        ended: Whether the model ended it, by <EOS> in records mode.
        log_probabilities: Of each token, in nats: the model's own, at temperature 1, before filters, bans and
            constraints. Empty where they were not asked for.
        log_probability: Of all of them, with that of the <EOS> that ended the text.
        seed: Of the random numbers; a search has none.
    """

    number: int
    prompt: str
    text: str
    tokens: list[int]
    ended: bool
    log_probabilities: list[float] = field(default_factory=list)
    log_probability: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Fill:
    """A text whose gap a model filled.

    Attributes:
        text: The whole.
        gap: What stands in the gap.
        log_probability: Of the whole in nats, the mean of both directions.
    """

    text: str
    gap: str
    log_probability: float


class Writer:
    """A trained model that writes."""

    def __init__(self, trained: TrainedModel) -> None:
        """Hold the trained model."""
        self.trained = trained

    def sample(
        self,
        *,
        prompt: str = "",
        length: int | None = None,
        characters: int | None = None,
        until: Sequence[str] = (),
        count: int = 1,
        best_of: int = 1,
        length_penalty: float = 0.6,
        ban: Sequence[str] = (),
        seed: int | None = None,
        novel: bool = False,
        max_copy: int | None = None,
        matching: str | None = None,
        allow_unknown: bool = False,
        scored: bool = True,
        state_in: str | Path | None = None,
        state_out: str | Path | None = None,
        constraints: Constraints | None = None,
        **filters: Unpack[Filters],
    ) -> list[Sample]:
        """Write texts.

        Args:
            prompt: What each begins with; of a model that reads backward, what each ends with.
            length: Most tokens added to it; by default 500 or, with `characters`, as many as those take.
            characters: Characters added to it, to be cut at exactly.
            until: Texts to stop at, whichever comes first; a text ends with it.
            count: How many texts.
            best_of: Write so many for each, and keep the most probable, by normalized log-probability.
            length_penalty: Of that normalization (Wu et al. 2016); 0 is none.
            ban: Texts never to write.
            seed: The same seed writes the same texts; by default 1, or that of `state_in`.
            novel: Leave out texts that are in the run's corpus, and repeats.
            max_copy: No run of more characters than this is in the training text; a text that comes to such a place
                goes back and takes another way.
            matching: A regular expression, in the syntax of Rust's regex crate, that what is added matches as a whole.
                A text of no records ends where nothing more may come.
            allow_unknown: Read what the model never saw in the prompt as <UNK>, instead of refusing it.
            scored: Return log-probabilities.
            state_in: Go on from where the text stood that wrote this file; `text` is what is new.
            state_out: Write where the text stands when it stops, a safetensors file.
            constraints: Makes more constraints.
            filters: temperature (0 always takes the most probable token), top_k and so on: the fields of `Settings`.

        Raises:
            TokenizerError: The prompt has characters or words that the model never saw.
            CheckpointError: `state_in` is not of this model, or a file cannot be read or written.
            CharlmError: A value is out of its range, too few of the texts are novel, the bans leave nothing to
                write, or the model reads both ways.
        """
        settings = Settings(**filters)
        prompt_ids, ending = self._begin(
            prompt, StopCondition(length, characters, tuple(until)), allow_unknown
        )
        if state_in is not None or state_out is not None:
            self._check_one_text(count * best_of, novel)
        place = None if state_in is None else self._read_place(Path(state_in))
        seed = (place.seed if place else 1) if seed is None else seed

        constraints = self._matching(
            matching, prompt_ids, ending, ban, constraints, apart=(max_copy, state_in, state_out)
        )
        write_uncopied = None if max_copy is None else self._uncopied(max_copy, prompt_ids, ending)

        def write(numbers: Sequence[int]) -> list[Sample]:
            if write_uncopied is not None:
                each = (write_uncopied(number, settings, seed, ban, scored) for number in numbers)
                return [
                    self._samples(one, prompt, prompt_ids, [number], goes_on=False)[0]
                    for number, one in zip(numbers, each, strict=True)
                ]
            texts = self._texts(
                prompt_ids, ending, numbers, settings, seed, ban, constraints, place, scored=scored
            )
            while texts.advance():
                pass
            if state_out is not None:
                self._write_place(Path(state_out), texts)
            return self._samples(texts, prompt, prompt_ids, numbers, goes_on=state_out is not None)

        is_novel = self._novelty_filter().is_novel if novel else lambda ids: True
        found: list[Sample] = []
        tried = 0
        scored = scored or best_of > 1
        while len(found) < count:
            if tried >= count * _ATTEMPTS_PER_NOVEL_TEXT or (tried and settings.temperature == 0):
                raise CharlmError(
                    f"only {len(found)} of {count} texts are novel after {tried} tries; raise --temperature, or train "
                    "for less long"
                )
            samples = write(range(tried * best_of, (tried + count) * best_of))
            tried += count
            for sample in _best_of(samples, best_of, length_penalty):
                if len(found) < count and is_novel(self._in_order(prompt_ids, sample.tokens)):
                    found.append(sample)
        return found

    def search(
        self,
        *,
        beams: int,
        prompt: str = "",
        length: int | None = None,
        characters: int | None = None,
        until: Sequence[str] = (),
        count: int = 1,
        length_penalty: float = 0.6,
        ban: Sequence[str] = (),
        no_repeat_ngram: int | None = None,
        allow_unknown: bool = False,
    ) -> list[Sample]:
        """Search for the most probable texts, by beams; arguments as for `sample`.

        Args:
            beams: How many texts live side by side.
            prompt: What each begins with.
            length: Most tokens added to it.
            characters: Characters added to it.
            until: Texts to stop at.
            count: How many of the best, at most `beams`.
            length_penalty: Of the normalized log-probability that ranks them (Wu et al. 2016); 0 is none.
            ban: Texts never to write.
            no_repeat_ngram: No so many tokens in a row twice.
            allow_unknown: Read what the model never saw in the prompt as <UNK>.

        Raises:
            CharlmError: As for `sample`, or fewer beams than texts.
        """
        if not 1 <= count <= beams:
            raise CharlmError(f"--beams must be at least --count, {count}; got {beams}")
        Settings(no_repeat_ngram=no_repeat_ngram)  # Its range.
        prompt_ids, ending = self._begin(
            prompt, StopCondition(length, characters, tuple(until)), allow_unknown
        )
        read = self._as_read(prompt_ids)

        def telling(ids: Sequence[int]) -> TextStream:
            told = TextStream(self.trained.tokenizer, prompt_ids, ending)
            for token in ids:
                told.feed(token)
            return told

        def is_end(ids: list[int]) -> bool:
            if self.trained.writes_records and ids[-1] == EOS:
                return True
            return bool(ending.until or ending.characters) and telling(ids).ended

        found = beam_search(
            self.trained.model,
            read,
            beams=beams,
            length=ending.most_tokens,
            length_penalty=length_penalty,
            is_end=is_end,
            no_repeat_ngram=no_repeat_ngram,
            constraints=self._bans(ban, read, 1),
        )
        samples = []
        for rank, one in enumerate(found[:count]):
            ended = self.trained.writes_records and one.ids[-1:] == [EOS]
            ids = one.ids[:-1] if ended else one.ids
            told = telling(ids)
            told.flush()
            text = (
                told.text
                if self.trained.is_forward
                else self.trained.tokenizer.decode(self._in_order(prompt_ids, ids))
            )
            total = sum(one.log_probabilities)
            samples.append(
                Sample(rank, prompt, text, ids, ended, one.log_probabilities[: len(ids)], total)
            )
        return samples

    def fill(
        self,
        text: str,
        *,
        length: int = 16,
        count: int = 1,
        temperature: float = 1.0,
        seed: int = 1,
        allow_unknown: bool = False,
    ) -> list[Fill]:
        """Fill the gap in a text, by a model that reads both ways.

        Args:
            text: A text with one gap, three or more underscores, as in "The ____ were full.".
            length: Most tokens in the gap.
            count: How many, no two alike.
            temperature: 0 gives the most probable first.
            seed: The same seed fills the same.
            allow_unknown: As for `sample`.

        Raises:
            TokenizerError: The text has characters or words that the model never saw.
            CharlmError: The model reads one way only, or the text has not one gap.
        """
        if self.trained.model.direction != "both":
            raise CharlmError(
                f"{self.trained.folder}: the model reads {self.trained.model.direction} alone, and a gap has two sides; train one that "
                "reads both ways: --set model.direction=both"
            )
        pieces = _GAP.split(text)
        if len(pieces) != 2:
            raise CharlmError(
                f"--fill: must have one gap, written ____; got {len(pieces) - 1} in {text!r:.60}"
            )
        # A word's token holds the space before it: there the space belongs to what is filled in.
        space = " " * (
            self.trained.config.tokenizer.level in ("word", "bpe") and pieces[0].endswith(" ")
        )
        before, after = pieces[0].removesuffix(space), pieces[1]
        known = [
            encode_prompt(self.trained, piece, allow_unknown=allow_unknown, option="--fill")
            for piece in (before, after)
        ]
        end = [EOS] * self.trained.writes_records
        found = fill(
            self.trained.model,
            known[0],
            known[1],
            length=length,
            count=count,
            temperature=temperature,
            seed=seed,
            fits=lambda ids: self.trained.tokenizer.decode(ids).startswith(space),
            score=lambda texts: sequence_log_probabilities(
                self.trained.model,
                [[*ids, *end] for ids in texts],
                eos=EOS,
                device=self.trained.device,
            ),
        )
        gaps = [self.trained.tokenizer.decode(filling.ids) for filling in found]
        return [
            Fill(f"{before}{gap}{after}", gap.removeprefix(space), filling.log_probability)
            for gap, filling in zip(gaps, found, strict=True)
        ]

    def stream(
        self,
        *,
        prompt: str = "",
        length: int | None = None,
        characters: int | None = None,
        until: Sequence[str] = (),
        ban: Sequence[str] = (),
        matching: str | None = None,
        settings: Settings,
        seed: int | None = None,
        allow_unknown: bool = False,
        state_in: str | Path | None = None,
        state_out: str | Path | None = None,
        constraints: Constraints | None = None,
    ) -> Iterator[str]:
        """Write one text, yielding the prompt and then each piece as it is produced; arguments as for `sample`.

        A model that reads backward writes backward: its text comes in one piece, the prompt at its end.
        """
        if state_out is not None:
            self._check_one_text(1, novel=False)
        place = None if state_in is None else self._read_place(Path(state_in))
        prompt_ids, ending = self._begin(
            prompt, StopCondition(length, characters, tuple(until)), allow_unknown
        )
        constraints = self._matching(
            matching, prompt_ids, ending, ban, constraints, apart=(state_in, state_out)
        )
        texts = self.begin_text(
            prompt=prompt,
            ending=ending,
            ban=ban,
            settings=settings,
            seed=seed,
            allow_unknown=allow_unknown,
            place=place,
            constraints=constraints,
        )
        if not self.trained.is_forward:
            while texts.advance():
                pass
            ids = encode_prompt(self.trained, prompt, allow_unknown=allow_unknown)
            yield self._samples(texts, prompt, ids, [0], goes_on=False)[0].text
            return
        (telling,) = texts.tellings
        yield telling.new()
        while texts.advance():
            yield telling.new()
        if state_out is None:
            telling.flush()
            yield telling.new()
        else:
            self._write_place(Path(state_out), texts)

    def begin_text(
        self,
        *,
        prompt: str = "",
        ending: StopCondition,
        ban: Sequence[str] = (),
        settings: Settings,
        seed: int | None = None,
        allow_unknown: bool = False,
        place: GenerationState | None = None,
        constraints: Constraints | None = None,
    ) -> TextBatch:
        """Return one text that has its prompt and is yet to be written; arguments as for `sample`.

        Args:
            prompt: What it begins or goes on with.
            ending: Where it ends.
            ban: Texts never to write.
            settings: How a token is drawn.
            seed: Of the random numbers; by default 1, or that of `place`.
            allow_unknown: Read what the model never saw in the prompt as <UNK>.
            place: Where a text stands that goes on.
            constraints: Makes more constraints.

        Raises:
            CharlmError: As for `sample`.
        """
        ids, ending = self._begin(prompt, ending, allow_unknown)
        seed = (place.seed if place else 1) if seed is None else seed
        numbers = [place.number if place else 0]
        return self._texts(
            ids, ending, numbers, settings, seed, ban, constraints, place, scored=False
        )

    def _begin(
        self, prompt: str, ending: StopCondition, allow_unknown: bool
    ) -> tuple[list[int], StopCondition]:
        """Return the prompt's ids, and what is checked of the ending."""
        require_one_direction(self.trained)
        if not self.trained.is_forward and (ending.characters is not None or ending.until):
            raise CharlmError(
                f"{self.trained.folder}: the model writes backward; leave out --characters and --until"
            )
        if not all(ending.until):
            raise CharlmError("--until: must not be empty: every text contains that")
        return encode_prompt(self.trained, prompt, allow_unknown=allow_unknown), ending

    def _as_read(self, ids: list[int]) -> list[int]:
        """Return ids in the order in which the model reads them."""
        return ids if self.trained.is_forward else ids[::-1]

    def _in_order(self, prompt_ids: list[int], ids: list[int]) -> list[int]:
        """Return prompt and written tokens as the text has them."""
        return [*prompt_ids, *ids] if self.trained.is_forward else [*reversed(ids), *prompt_ids]

    def _bans(self, ban: Sequence[str], before: list[int], batch: int) -> list[BannedText]:
        if not ban:
            return []
        return [
            BannedText(
                self.trained.tokenizer,
                ban,
                before,
                batch=batch,
                device=self.trained.device,
                backward=not self.trained.is_forward,
            )
        ]

    def _texts(
        self,
        prompt_ids: list[int],
        ending: StopCondition,
        numbers: Sequence[int],
        settings: Settings,
        seed: int,
        ban: Sequence[str],
        constraints: Constraints | None,
        place: GenerationState | None,
        *,
        scored: bool,
    ) -> TextBatch:
        """Return texts side by side that are yet to be written."""
        read = self._as_read(prompt_ids)
        before = [*(place.ids if place else []), *read]
        more = constraints(len(numbers), before) if constraints else []
        writing = Generator(
            self.trained.model,
            read,
            numbers=numbers,
            settings=settings,
            seed=seed,
            stops_at_eos=self.trained.writes_records,
            constraints=[*self._bans(ban, before, len(numbers)), *more],
            place=place,
            scored=scored,
        )
        for constraint in more:
            if isinstance(constraint, RegexConstraint) and not self.trained.writes_records:
                constraint.tell_ends(writing.stop)
        old, told = (place.ids, place.told) if place else ([], 0)
        tellings = [
            TextStream(self.trained.tokenizer, prompt_ids, ending, before=old, told=told)
            for _ in numbers
        ]
        return TextBatch(writing, tellings, ending, stops_at_eos=self.trained.writes_records)

    def _matching(
        self,
        matching: str | None,
        prompt_ids: list[int],
        ending: StopCondition,
        ban: Sequence[str],
        more: Constraints | None,
        *,
        apart: Sequence[object],
    ) -> Constraints | None:
        """Return what makes the constraint to a regular expression, whose automaton is made here, once, and others.

        What would cut a text short of its match is refused, and what has no place in one automaton of a whole text.
        """
        if matching is None:
            return more
        if not self.trained.is_forward:
            raise CharlmError(
                f"{self.trained.folder}: the model reads {self.trained.model.direction}; leave out --matching"
            )
        if ending.characters is not None or ending.until or any(one is not None for one in apart):
            raise CharlmError(
                "--matching cannot hold beside --characters, --until, --max-copy, --state-in and --state-out; leave "
                "those out"
            )
        automaton = automaton_of(
            matching,
            self.trained.tokenizer,
            records=self.trained.writes_records,
            before=prompt_ids,
            ban=ban,
        )

        def make(batch: int, before: list[int]) -> list[Constraint]:
            own = RegexConstraint(
                automaton, length=ending.most_tokens, batch=batch, device=self.trained.device
            )
            return [*(more(batch, before) if more else []), own]

        return make

    def _uncopied(
        self, max_copy: int, prompt_ids: list[int], ending: StopCondition
    ) -> Callable[..., TextBatch]:
        """Return what writes one text without long copies from the training text, whose index is made here, once."""
        if not self.trained.is_forward:
            raise CharlmError(
                f"{self.trained.folder}: the model writes backward; leave out --max-copy"
            )
        train = training_texts(self.trained)["train"]
        index = SuffixIndex(
            text_to_index(
                written_form(train, self.trained.tokenizer, records=self.trained.writes_records),
                self.trained.tokenizer,
            )
        )
        eos = b"" if self.trained.writes_records else None
        pieces = self.trained.tokenizer.token_texts(eos=eos)
        before = b"".join(pieces[token] for token in prompt_ids)

        def write(
            number: int, settings: Settings, seed: int, ban: Sequence[str], scored: bool
        ) -> TextBatch:
            limit = CopyLimit(index, pieces, max_copy, before=before)
            texts = self._texts(
                prompt_ids,
                ending,
                [number],
                settings,
                seed,
                ban,
                lambda batch, ids: [limit],
                None,
                scored=scored,
            )
            (telling,), (written,) = texts.tellings, texts.writing.written
            for count, token in enumerate(
                without_long_copies(texts.writing, limit, length=ending.most_tokens), 1
            ):
                if token != EOS or not self.trained.writes_records:
                    telling.feed(token)
                if telling.ended:
                    del written[count:]
                    break
            return texts

        return write

    def _samples(
        self,
        texts: TextBatch,
        prompt: str,
        prompt_ids: list[int],
        numbers: Sequence[int],
        *,
        goes_on: bool,
    ) -> list[Sample]:
        """Return what has been written; `goes_on`: the bytes that wait for the rest of their character may get it."""
        scores: Sequence[list[float]] = texts.writing.log_probabilities()
        samples = []
        for number, column, telling, each in zip(
            numbers, texts.writing.written, texts.tellings, scores, strict=True
        ):
            ended = self.trained.writes_records and column[-1:] == [EOS]
            ids = column[:-1] if ended else column
            if not goes_on:
                telling.flush()
            text = (
                telling.chapter
                if self.trained.is_forward
                else self.trained.tokenizer.decode(self._in_order(prompt_ids, ids))
            )
            total = math.fsum(each) if texts.writing.scored else None
            samples.append(
                Sample(
                    number,
                    prompt,
                    text,
                    ids,
                    ended,
                    each[: len(ids)],
                    total,
                    seed=texts.writing.seed,
                )
            )
        return samples

    def _check_one_text(self, count: int, novel: bool) -> None:
        if not self.trained.is_forward:
            raise CharlmError(
                f"{self.trained.folder}: the model writes backward; leave out --state-in and --state-out"
            )
        if count > 1 or novel:
            raise CharlmError(
                "--state-in and --state-out hold one text; leave out --count, --best-of and --novel"
            )

    def _read_place(self, path: Path) -> GenerationState:
        self._check_one_text(1, novel=False)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"--state-in: {path}: cannot be read: {error.strerror}") from None
        place = place_from_bytes(data, self.trained.model, str(path))
        if place.ended:
            raise CheckpointError(
                f"--state-in: {path}: the model has ended this text; begin another"
            )
        return place

    def _write_place(self, path: Path, texts: TextBatch) -> None:
        place = texts.writing.place(len(texts.tellings[0].text))
        with atomic_write(
            path, error_type=CheckpointError, remedy="name another file with --state-out"
        ) as file:
            file.write(place_to_bytes(place, weights_checksum(self.trained.model)))

    def _novelty_filter(self) -> NoveltyFilter:
        parts = [encode(self.trained, text).ids for text in training_texts(self.trained).values()]
        return NoveltyFilter(parts, records=self.trained.writes_records)


def _best_of(samples: Sequence[Sample], best_of: int, length_penalty: float) -> Iterator[Sample]:
    """Yield the most probable of each `best_of` samples, by normalized log-probability."""

    def score(sample: Sample) -> float:
        return normalized(
            sample.log_probability or 0.0, len(sample.tokens) + sample.ended, length_penalty
        )

    for begin in range(0, len(samples), best_of):
        yield max(samples[begin : begin + best_of], key=score)
