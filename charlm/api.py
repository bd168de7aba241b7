"""What a command does, one call does: `train` and `load`, `Run.sample` and `Run.perplexity`."""

import math
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
import numpy.typing as npt
import torch

import charlm
from charlm.config import Config
from charlm.data.cards import Part, cache_folder
from charlm.data.corpora import Text, open_corpus, read_text
from charlm.data.sources import absolute
from charlm.data.suffixes import SuffixIndex
from charlm.data.tokenizer import EOS, Tokenizer
from charlm.data.tokens import Tokens, encode_text
from charlm.data.windows import WARM_UP
from charlm.errors import CharlmError, CheckpointError, TokenizerError
from charlm.evaluation import compression
from charlm.evaluation.adaptation import (
    FIT_TOKENS,
    SEGMENT,
    Methods,
    Reading,
    check_methods,
    target_log_probabilities,
)
from charlm.evaluation.agreement import Agreement, ask_pairs, ask_sentences, draw_sentences, read_pairs
from charlm.evaluation.comparison import (
    BLOCK_CHARACTERS,
    CONFIDENCE,
    RESAMPLES,
    Compared,
    Comparison,
    block_of_lines,
    differences,
    lines_of,
    nats_of_lines,
)
from charlm.evaluation.gradients import Gradients, measure_gradients
from charlm.evaluation.literals import Alphabet
from charlm.evaluation.novelty import Novelty, Words, as_written, held_out_like, measure_novelty, records_of
from charlm.evaluation.perplexity import Perplexity, fitted_temperature, measure, measure_adapted, unigram_loss_nats
from charlm.evaluation.sentences import Sentences, log_probabilities, read_sentences, score_sentences
from charlm.evaluation.tokens import RARE, Surprise, count_words, summarize
from charlm.evaluation.tokens import Words as WordCounts
from charlm.files import writing as writing_file
from charlm.model.language_model import LanguageModel, count_parameters
from charlm.sampling.bans import Bans
from charlm.sampling.copies import CopyLimit, text_to_index, token_texts, without_long_copies
from charlm.sampling.fill import fill
from charlm.sampling.filters import Filters
from charlm.sampling.generate import Constraint, Settings, Writing
from charlm.sampling.matching import Matching, automaton_of
from charlm.sampling.novelty import NoveltyFilter
from charlm.sampling.place import Place, place_from_bytes, place_to_bytes, weights_checksum
from charlm.sampling.search import beam_search, normalized
from charlm.sampling.texts import Ending, Telling, Texts
from charlm.training import checkpoint, run
from charlm.training.hardware import choose_device, choose_precision

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


@dataclass(frozen=True)
class Run:
    """A trained model, with the tokenizer and the configuration that it belongs to.

    Attributes:
        folder: The run folder.
        which: `best` or `last`.
        config: Resolved.
        tokenizer: Learnt from the run's training text.
        model: In evaluation mode, on `device`.
        corpus: Facts on the corpus: its title, its parts, how often each token occurs in the training text.
        state: Facts on the checkpoint, such as `step`.
        device: Where the model is.
    """

    folder: Path
    which: checkpoint.Which
    config: Config
    tokenizer: Tokenizer
    model: LanguageModel
    corpus: dict[str, Any]
    state: dict[str, Any]
    device: torch.device

    @property
    def writes_records(self) -> bool:
        """Whether a text that it writes ends with <EOS>."""
        return self.config.corpus.mode == "records"

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
        prompt_ids, ending = self._begin(prompt, Ending(length, characters, tuple(until)), allow_unknown)
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
                return [self._samples(one, prompt, prompt_ids, [number], goes_on=False)[0]
                        for number, one in zip(numbers, each, strict=True)]  # fmt: skip
            texts = self._texts(prompt_ids, ending, numbers, settings, seed, ban, constraints, place, scored=scored)
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
        prompt_ids, ending = self._begin(prompt, Ending(length, characters, tuple(until)), allow_unknown)
        read = self._as_read(prompt_ids)

        def telling(ids: Sequence[int]) -> Telling:
            told = Telling(self.tokenizer, prompt_ids, ending)
            for token in ids:
                told.feed(token)
            return told

        def is_end(ids: list[int]) -> bool:
            if self.writes_records and ids[-1] == EOS:
                return True
            return bool(ending.until or ending.characters) and telling(ids).ended

        found = beam_search(
            self.model, read, beams=beams, length=ending.most_tokens, length_penalty=length_penalty, is_end=is_end,
            no_repeat_ngram=no_repeat_ngram, constraints=self._bans(ban, read, 1),
        )  # fmt: skip
        samples = []
        for rank, one in enumerate(found[:count]):
            ended = self.writes_records and one.ids[-1:] == [EOS]
            ids = one.ids[:-1] if ended else one.ids
            told = telling(ids)
            told.flush()
            text = told.text if self._forward else self.tokenizer.decode(self._in_order(prompt_ids, ids))
            total = sum(one.log_probabilities)
            samples.append(Sample(rank, prompt, text, ids, ended, one.log_probabilities[: len(ids)], total))
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
        if self.model.direction != "both":
            raise CharlmError(
                f"{self.folder}: the model reads {self.model.direction} alone, and a gap has two sides; train one that "
                "reads both ways: --set model.direction=both"
            )
        pieces = _GAP.split(text)
        if len(pieces) != 2:
            raise CharlmError(f"--fill: must have one gap, written ____; got {len(pieces) - 1} in {text!r:.60}")
        # A word's token holds the space before it: there the space belongs to what is filled in.
        space = " " * (self.config.tokenizer.level in ("word", "bpe") and pieces[0].endswith(" "))
        before, after = pieces[0].removesuffix(space), pieces[1]
        known = [self.prompt_ids(piece, allow_unknown=allow_unknown, option="--fill") for piece in (before, after)]
        end = [EOS] * self.writes_records
        found = fill(
            self.model, known[0], known[1], length=length, count=count, temperature=temperature, seed=seed,
            fits=lambda ids: self.tokenizer.decode(ids).startswith(space),
            score=lambda texts: log_probabilities(self.model, [[*ids, *end] for ids in texts], device=self.device),
        )  # fmt: skip
        gaps = [self.tokenizer.decode(filling.ids) for filling in found]
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
        prompt_ids, ending = self._begin(prompt, Ending(length, characters, tuple(until)), allow_unknown)
        constraints = self._matching(matching, prompt_ids, ending, ban, constraints, apart=(state_in, state_out))
        texts = self.begin_text(
            prompt=prompt, ending=ending, ban=ban, settings=settings, seed=seed,
            allow_unknown=allow_unknown, place=place, constraints=constraints,
        )  # fmt: skip
        if not self._forward:
            while texts.advance():
                pass
            ids = self.prompt_ids(prompt, allow_unknown=allow_unknown)
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
        ending: Ending,
        ban: Sequence[str] = (),
        settings: Settings,
        seed: int | None = None,
        allow_unknown: bool = False,
        place: Place | None = None,
        constraints: Constraints | None = None,
    ) -> Texts:
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
        return self._texts(ids, ending, numbers, settings, seed, ban, constraints, place, scored=False)

    def perplexity(
        self,
        text: str | None = None,
        *,
        paths: Sequence[str | Path] = (),
        split: Part = "valid",
        streams: int = 1,
        precision: str = "fp32",
        temperature: float | Literal["fit"] = 1.0,
        dynamic: bool = False,
        cache: bool = False,
        mix_ngram: int | None = None,
        segment: int = SEGMENT,
        fit_tokens: int = FIT_TOKENS,
        baselines: bool = False,
    ) -> Perplexity:
        """Score the model on a text: each token is predicted once, with the state carried through the whole text.

        Args:
            text: A text.
            paths: Or files, folders, names of corpora.
            split: With neither, a part of the run's own corpus.
            streams: More than one reads pieces side by side, faster and not quite exact.
            precision: `fp32` or `bf16`.
            temperature: What logits are divided by; `fit`: what is best on the validation split of the run's corpus.
            dynamic: Score it besides as it learns from the text, each segment once it is predicted (Krause et al.
                2018). This and the next two may go together; all that they need is fitted on the validation split.
            cache: And with a neural cache of the text so far mixed in (Grave et al. 2017).
            mix_ngram: And with a Kneser-Ney model of the training text mixed in, of this order.
            segment: With `dynamic`: tokens that are predicted before the model learns from them.
            fit_tokens: Tokens of the validation split, from its beginning, to fit on.
            baselines: Score what has no network on the same text too.

        Raises:
            CharlmError: The text cannot be read, or has nothing to score; or there is nothing to fit on; or what is
                asked for is not defined for this model.
        """
        mode = self.config.corpus.mode or "stream"
        methods = Methods(dynamic, cache, mix_ngram, segment, fit_tokens)
        check_methods(self.model, methods, mode)
        # Standard input can be read only once, so it is kept where the text is needed again.
        files = absolute([str(path) for path in paths]) if baselines and paths else None
        tokens, name = self._text_to_score(text, files or paths, split)
        began = time.perf_counter()
        dtype = choose_precision(precision, self.device)
        fitted = temperature == "fit"
        if temperature == "fit":
            held_out, _ = self._text_to_score(None, (), "valid")
            temperature = fitted_temperature(self.model, held_out, mode=mode, device=self.device, precision=dtype)
        score = measure(
            self.model, tokens, mode=mode, streams=streams, device=self.device, precision=dtype, temperature=temperature
        )
        seconds = round(time.perf_counter() - began, 3)
        counts = tokens.counts
        exact = streams == 1 or mode == "records"
        reading = Reading(mode, self.tokenizer.vocabulary_size, self.device, dtype, temperature)
        adapted = None
        if methods.any:
            train, valid = (self._text_to_score(None, (), part)[0] for part in ("train", "valid"))
            adapted = measure_adapted(
                self.model, tokens, methods, reading, train=train, valid=valid, clock=time.perf_counter
            )
            adapted.settings["fitted_on_the_scored_text"] = text is None and not paths and split == "valid"
        return Perplexity(
            score.loss_nats, score.perplexity, score.bits_per(counts.characters), score.bits_per(counts.bytes),
            score.correct / score.tokens, counts.unknown_share,
            math.exp(unigram_loss_nats(self.corpus["train_token_counts"], tokens)),
            score.tokens, counts.characters, counts.bytes, seconds,
            {
                "run": str(self.folder), "checkpoint": self.which, "step": self.state["step"], "text": name,
                "level": self.config.tokenizer.level, "mode": mode, "direction": self.model.direction,
                "state": "zero at each record" if mode == "records" else "carried through the whole text" if exact
                else f"{streams} streams, each warmed up on {WARM_UP} tokens",
                "temperature": round(temperature, 4), **({"temperature_fitted_on": "valid"} if fitted else {}),
                "precision": precision, "device": str(self.device), "seed": self.config.training.seed,
                "version": charlm.__version__,
            },
            adapted, self._baselines(tokens, self._bytes_of(text, files, split)) if baselines else None,
        )  # fmt: skip

    def agreement(
        self,
        pairs: str | Path | None = None,
        *,
        sentences: int = 2000,
        seed: int = 2,
        longest: int = 4,
        most_nouns: int = 3,
    ) -> Agreement:
        """Ask which of two sentences the model holds more probable: what it remembers of the subject at the verb.

        Args:
            pairs: A file of minimal pairs: the right sentence, a tab, the wrong one, a pair a line.
            sentences: Without it, how many sentences of the corpus agreement's grammar, none of which is in the run's
                training text; half of them have a plural subject.
            seed: Of the grammar's choices.
            longest: Most phrases between subject and verb, of 3 to 6 words each; the corpus has at most 4.
            most_nouns: Most nouns between them; the corpus has at most 3.

        Raises:
            CharlmError: The file holds no pairs, a parameter is out of its range, or the model knows none of the verbs.
        """
        settings: dict[str, Any] = {
            "run": str(self.folder), "checkpoint": self.which, "step": self.state["step"],
            "level": self.config.tokenizer.level, "mode": self.config.corpus.mode, "direction": self.model.direction,
            "device": str(self.device), "training_seed": self.config.training.seed, "version": charlm.__version__,
        }  # fmt: skip
        if pairs is not None:
            settings["pairs"] = str(pairs)
            found = ask_pairs(
                self.model, self.tokenizer, read_pairs(pairs), records=self.writes_records, device=self.device
            )
        else:
            seen = self._training_lines()
            drawn, left_out = draw_sentences(
                sentences, seed=seed, longest=longest, most_nouns=most_nouns, seen=seen or frozenset()
            )
            settings |= {"sentences": sentences, "seed": seed, "longest": longest, "most_nouns": most_nouns,
                         "left_out_as_seen": None if seen is None else left_out}  # fmt: skip
            found = ask_sentences(self.model, self.tokenizer, drawn, records=self.writes_records, device=self.device)
        return replace(found, settings=settings | found.settings)

    def gradients(
        self,
        text: str | None = None,
        *,
        paths: Sequence[str | Path] = (),
        split: Part = "valid",
        window: int = 64,
        windows: int = 64,
    ) -> Gradients:
        """Measure how far back the loss of a token reaches: its gradient, by the tokens to each earlier state.

        Args:
            text: A text.
            paths: Or files, folders, names of corpora.
            split: With neither, a part of the run's own corpus.
            window: Tokens in a window: the loss of its last is followed back to the state after its first.
            windows: How many, evenly over the text.

        Raises:
            CharlmError: The text cannot be read, or is too short for a window.
        """
        tokens, name = self._text_to_score(text, paths, split)
        found = measure_gradients(
            self.model, tokens.ids, mode=self.config.corpus.mode or "stream", window=window, windows=windows,
            device=self.device,
        )  # fmt: skip
        settings = {
            "run": str(self.folder), "checkpoint": self.which, "step": self.state["step"], "text": name,
            "level": self.config.tokenizer.level, **found.settings, "device": str(self.device),
            "seed": self.config.training.seed, "version": charlm.__version__,
        }  # fmt: skip
        return replace(found, settings=settings)

    def novelty(
        self,
        samples: Sequence[str] | None = None,
        *,
        path: str | Path | None = None,
        size: int | None = None,
        temperature: float = 1.0,
        seed: int = 1,
    ) -> Novelty:
        """Measure how new texts are: what of them is in the training text, beside what of held-out text is.

        Args:
            samples: Texts that the model wrote.
            path: Or a file of them: a record a line in records mode, else one text.
            size: With neither, how much the run writes now: records, or tokens of one text.
            temperature: Of what is written now.
            seed: Of it.

        Raises:
            CharlmError: There is no text to measure, the run's corpus has changed, or pydivsufsort is not installed.
        """
        records = self.writes_records
        parts = self._own_texts()
        own = {part: as_written(parts[part], self.tokenizer, records=records) for part in parts if part != "test"}
        texts, made = self._samples_to_measure(samples, path, size, temperature, seed)
        words = None
        if self.config.tokenizer.level == "word":
            ids = self._encoded(parts["train"]).ids
            words = Words(ids if self.tokenizer.separates_by_space else ids[ids != EOS], self.tokenizer.encode)
        held_out = held_out_like(texts, own.pop("valid", b""), records=records)
        found = measure_novelty(texts, held_out, own["train"], records=records, words=words)
        settings = {
            "run": str(self.folder), "checkpoint": self.which, "step": self.state["step"], **made,
            "held_out": "valid" if found.held_out else None, "level": self.config.tokenizer.level,
            "mode": self.config.corpus.mode, "direction": self.model.direction, **found.settings,
            "device": str(self.device), "training_seed": self.config.training.seed, "version": charlm.__version__,
        }  # fmt: skip
        return replace(found, settings=settings)

    def _samples_to_measure(
        self, samples: Sequence[str] | None, path: str | Path | None, size: int | None, temperature: float, seed: int
    ) -> tuple[list[bytes], dict[str, Any]]:
        """Return texts, and how they came to be; arguments as for `novelty`."""
        records = self.writes_records
        if path is not None:
            file = read_text([str(path)], self.config.corpus, raw=self.config.tokenizer.level == "byte")
            written = as_written(file, self.tokenizer, records=records)
            return records_of(written) if records else [written], {"sample": str(path)}
        if samples is not None:
            return [text.encode() for text in samples], {"sample": "given"}
        size = size or (1000 if records else 20_000)
        count, length = (size, 500) if records else (1, size)
        made = {"sample": f"{size} {'records' if records else 'tokens'} written now", "temperature": temperature,
                "seed": seed}  # fmt: skip
        written_now = self.sample(count=count, length=length, temperature=temperature, seed=seed)
        return [one.text.encode() for one in written_now], made

    def compress(
        self, data: bytes, *, streams: int | None = None, report: compression.Report = compression.silent
    ) -> bytes:
        """Make a file smaller: the arithmetic coding of its tokens by the model's probabilities.

        Args:
            data: Any bytes: what has no token is carried beside.
            streams: Pieces coded side by side: fewer are smaller, more are faster. By default by length.
            report: Told how many tokens are done, of how many.

        Raises:
            CharlmError: constriction is not installed, or the model has diverged.
        """
        return compression.compress(data, self.model, self._alphabet(), streams=streams, report=report)

    def measure_compression(
        self, data: bytes, *, streams: int | None = None, report: compression.Report = compression.silent
    ) -> tuple[compression.Compression, bytes]:
        """Compress a file, and compare its size with the model's cross-entropy and with other compressors.

        Arguments as for `compress`.

        Returns:
            The comparison, and the compressed file.
        """
        found, compressed = compression.measure(data, self.model, self._alphabet(), streams=streams, report=report)
        settings = {
            "run": str(self.folder), "checkpoint": self.which, "step": self.state["step"],
            "level": self.config.tokenizer.level, "mode": self.config.corpus.mode, "direction": self.model.direction,
            "seed": self.config.training.seed,
        }  # fmt: skip
        return replace(found, settings=settings | found.settings), compressed

    def decompress(
        self, data: bytes, *, name: str = "the file", report: compression.Report = compression.silent
    ) -> bytes:
        """Give back what `compress` of the same run made smaller.

        Args:
            data: The compressed file.
            name: Of that file, for messages.
            report: As for `compress`.

        Raises:
            CheckpointError: It was compressed with another model, or where other numbers are computed.
            CharlmError: It is damaged, or no compressed file; or constriction is not installed.
        """
        return compression.decompress(data, self.model, self._alphabet(), name=name, report=report)

    def prompt_ids(self, prompt: str, *, allow_unknown: bool, option: str = "--prompt") -> list[int]:
        """Return the ids of a prompt, which came as `option`.

        Raises:
            TokenizerError: It has characters or words that the model never saw, and that is not allowed.
        """
        unknown = self.tokenizer.unknown_in(prompt)
        if unknown and not allow_unknown:
            kind = "word" if self.tokenizer.section.level == "word" else "character"
            listed = ", ".join(f"{piece!r}" for piece in unknown[:8]) + (", ..." if len(unknown) > 8 else "")
            raise TokenizerError(
                f"{option}: the model never saw the {kind}{'s' * (len(unknown) > 1)} {listed}; leave out what it does "
                "not know, or pass --allow-unknown to have it read as <UNK>"
            )
        ids: list[int] = self.tokenizer.encode(prompt).tolist()
        return ids

    @property
    def _forward(self) -> bool:
        return self.model.direction == "forward"

    def _begin(self, prompt: str, ending: Ending, allow_unknown: bool) -> tuple[list[int], Ending]:
        """Return the prompt's ids, and what is checked of the ending."""
        self._check_one_way()
        if not self._forward and (ending.characters is not None or ending.until):
            raise CharlmError(f"{self.folder}: the model writes backward; leave out --characters and --until")
        if not all(ending.until):
            raise CharlmError("--until: must not be empty: every text contains that")
        return self.prompt_ids(prompt, allow_unknown=allow_unknown), ending

    def _as_read(self, ids: list[int]) -> list[int]:
        """Return ids in the order in which the model reads them."""
        return ids if self._forward else ids[::-1]

    def _bans(self, ban: Sequence[str], before: list[int], batch: int) -> list[Bans]:
        if not ban:
            return []
        return [Bans(self.tokenizer, ban, before, batch=batch, device=self.device, backward=not self._forward)]

    def _texts(
        self,
        prompt_ids: list[int],
        ending: Ending,
        numbers: Sequence[int],
        settings: Settings,
        seed: int,
        ban: Sequence[str],
        constraints: Constraints | None,
        place: Place | None,
        *,
        scored: bool,
    ) -> Texts:
        """Return texts side by side that are yet to be written."""
        read = self._as_read(prompt_ids)
        before = [*(place.ids if place else []), *read]
        more = constraints(len(numbers), before) if constraints else []
        writing = Writing(
            self.model, read, numbers=numbers, settings=settings, seed=seed, stops_at_eos=self.writes_records,
            constraints=[*self._bans(ban, before, len(numbers)), *more], place=place, scored=scored,
        )  # fmt: skip
        for constraint in more:
            if isinstance(constraint, Matching) and not self.writes_records:
                constraint.tell_ends(writing.stop)
        old, told = (place.ids, place.told) if place else ([], 0)
        tellings = [Telling(self.tokenizer, prompt_ids, ending, before=old, told=told) for _ in numbers]
        return Texts(writing, tellings, ending, stops_at_eos=self.writes_records)

    def _matching(
        self,
        matching: str | None,
        prompt_ids: list[int],
        ending: Ending,
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
        if not self._forward:
            raise CharlmError(f"{self.folder}: the model reads {self.model.direction}; leave out --matching")
        if ending.characters is not None or ending.until or any(one is not None for one in apart):
            raise CharlmError(
                "--matching cannot hold beside --characters, --until, --max-copy, --state-in and --state-out; leave "
                "those out"
            )
        automaton = automaton_of(matching, self.tokenizer, records=self.writes_records, before=prompt_ids, ban=ban)

        def make(batch: int, before: list[int]) -> list[Constraint]:
            own = Matching(automaton, length=ending.most_tokens, batch=batch, device=self.device)
            return [*(more(batch, before) if more else []), own]

        return make

    def _uncopied(self, max_copy: int, prompt_ids: list[int], ending: Ending) -> Callable[..., Texts]:
        """Return what writes one text without long copies from the training text, whose index is made here, once."""
        if not self._forward:
            raise CharlmError(f"{self.folder}: the model writes backward; leave out --max-copy")
        train = self._own_texts()["train"]
        index = SuffixIndex(
            text_to_index(as_written(train, self.tokenizer, records=self.writes_records), self.tokenizer)
        )
        pieces = token_texts(self.tokenizer, records=self.writes_records)
        before = b"".join(pieces[token] for token in prompt_ids)

        def write(number: int, settings: Settings, seed: int, ban: Sequence[str], scored: bool) -> Texts:
            limit = CopyLimit(index, pieces, max_copy, before=before)
            texts = self._texts(
                prompt_ids, ending, [number], settings, seed, ban, lambda batch, ids: [limit], None, scored=scored
            )
            (telling,), (written,) = texts.tellings, texts.writing.written
            for count, token in enumerate(without_long_copies(texts.writing, limit, length=ending.most_tokens), 1):
                if token != EOS or not self.writes_records:
                    telling.feed(token)
                if telling.ended:
                    del written[count:]
                    break
            return texts

        return write

    def _samples(
        self, texts: Texts, prompt: str, prompt_ids: list[int], numbers: Sequence[int], *, goes_on: bool
    ) -> list[Sample]:
        """Return what has been written; `goes_on`: the bytes that wait for the rest of their character may get it."""
        scores: Sequence[list[float]] = texts.writing.log_probabilities()
        samples = []
        for number, column, telling, each in zip(numbers, texts.writing.written, texts.tellings, scores, strict=True):
            ended = self.writes_records and column[-1:] == [EOS]
            ids = column[:-1] if ended else column
            if not goes_on:
                telling.flush()
            text = telling.chapter if self._forward else self.tokenizer.decode(self._in_order(prompt_ids, ids))
            total = math.fsum(each) if texts.writing.scored else None
            samples.append(Sample(number, prompt, text, ids, ended, each[: len(ids)], total, seed=texts.writing.seed))
        return samples

    def _in_order(self, prompt_ids: list[int], ids: list[int]) -> list[int]:
        """Return prompt and written tokens as the text has them."""
        return [*prompt_ids, *ids] if self._forward else [*reversed(ids), *prompt_ids]

    def _check_one_text(self, count: int, novel: bool) -> None:
        if not self._forward:
            raise CharlmError(f"{self.folder}: the model writes backward; leave out --state-in and --state-out")
        if count > 1 or novel:
            raise CharlmError("--state-in and --state-out hold one text; leave out --count, --best-of and --novel")

    def _read_place(self, path: Path) -> Place:
        self._check_one_text(1, novel=False)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"--state-in: {path}: cannot be read: {error.strerror}") from None
        place = place_from_bytes(data, weights_checksum(self.model), str(path), self.device)
        if place.ended:
            raise CheckpointError(f"--state-in: {path}: the model has ended this text; begin another")
        return place

    def _write_place(self, path: Path, texts: Texts) -> None:
        place = texts.writing.place(len(texts.tellings[0].text))
        with writing_file(path, kind=CheckpointError, remedy="name another file with --state-out") as file:
            file.write(place_to_bytes(place, weights_checksum(self.model)))

    def _alphabet(self) -> Alphabet:
        corpus = self.config.corpus
        return Alphabet(self.tokenizer, corpus.mode or "stream", corpus.separator or "")

    def _check_one_way(self) -> None:
        if self.model.direction == "both":
            raise CharlmError(
                f"{self.folder}: the model reads both ways and cannot write from one end to the other; have it fill a "
                'gap: charlm sample --fill "The ____ were full."'
            )

    def _own_texts(self) -> dict[Part, Text]:
        corpus = open_corpus(self.config.corpus, raw=self.config.tokenizer.level == "byte")
        for part, text in corpus.parts.items():
            if text.fingerprint != self.corpus["fingerprints"].get(part):
                raise CheckpointError(
                    f"{self.folder}: its {part} text has changed since it was trained: "
                    f"{', '.join(self.config.corpus.text)}; put the old text back, or name a text to score"
                )
        return corpus.parts

    def _encoded(self, text: Text, cache: Path | None = None) -> Tokens:
        mode = self.config.corpus.mode or "stream"
        return encode_text(text, self.tokenizer, mode=mode, cache=cache or cache_folder() / "tokens")

    def _text_to_score(self, text: str | None, paths: Sequence[str | Path], split: Part) -> tuple[Tokens, str]:
        raw = self.config.tokenizer.level == "byte"
        if text is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "text.txt"
                path.write_bytes(text.encode())
                return self._encoded(read_text([str(path)], self.config.corpus, raw=raw), Path(folder)), "a string"
        if paths:
            names = [str(path) for path in paths]
            return self._encoded(read_text(names, self.config.corpus, raw=raw)), ", ".join(names)
        parts = self._own_texts()
        if split not in parts:
            raise CheckpointError(
                f"{self.folder}: its corpus has no {split} part, only {', '.join(parts)}; name a text"
            )
        return self._encoded(parts[split]), split

    def _bytes_of(self, text: str | None, paths: Sequence[str] | None, split: Part) -> bytes:
        """Return a text to score as it stands in its file; arguments as for `_text_to_score`."""
        if text is not None:
            return text.encode()
        raw = self.config.tokenizer.level == "byte"
        source = read_text(list(paths), self.config.corpus, raw=raw) if paths else self._own_texts()[split]
        separator = source.separator.encode()
        return b"".join(block + (separator if ends else b"") for block, ends in source.blocks())

    def _baselines(self, tokens: Tokens, text_bytes: bytes) -> list[dict[str, Any]]:
        from charlm.evaluation.baselines import baselines

        train, _ = self._text_to_score(None, (), "train")
        found = baselines(
            train.ids, tokens.ids, vocabulary_size=self.tokenizer.vocabulary_size, records=self.writes_records,
            text_bytes=text_bytes, train_bytes=self._bytes_of(None, None, "train"),
        )  # fmt: skip
        return [baseline.to_json() for baseline in found]

    def _training_lines(self) -> frozenset[str] | None:
        """Return lines that the model was trained on; None if its text is not there any more, or has changed."""
        try:
            text = self._own_texts()["train"]
        except CharlmError:
            return None
        # The grammar's sentences begin so; the other lines of a large text need not stand in memory.
        return frozenset(
            line.decode(errors="replace")
            for block, _ in text.blocks() for line in block.splitlines() if line.startswith(b"The ")
        )  # fmt: skip

    def _novelty_filter(self) -> NoveltyFilter:
        parts = [self._encoded(text).ids for text in self._own_texts().values()]
        return NoveltyFilter(parts, records=self.writes_records)

    def sentences(
        self, sentences: Sequence[str] | None = None, *, path: str | Path | None = None, explain: bool = False
    ) -> Sentences:
        """Score sentences, each read by itself: how probable it is, whole and per token.

        Args:
            sentences: Sentences.
            path: Or a file of them, one a line; `-` is standard input.
            explain: Tell each token's probability too.

        Raises:
            CharlmError: The file cannot be read or holds none, or `explain` is asked of a model that reads both ways.
        """
        if sentences is None and path is None:
            raise CharlmError("sentences: none to score; give a file with one a line, or - for standard input")
        lines = list(enumerate(sentences, 1)) if sentences is not None else read_sentences(str(path))
        ends = self.writes_records or self.tokenizer.separates_by_space
        found = score_sentences(
            self.model, self.tokenizer, lines, ends=ends, explain=explain, device=self.device
        )  # fmt: skip
        text = "given" if path is None else str(path)
        scored = {"sentences": text, "end": "predicted" if ends else "not predicted", "state": "zero at each sentence"}
        return Sentences(found, self._score_settings() | scored)

    def surprise(
        self,
        text: str | None = None,
        *,
        paths: Sequence[str | Path] = (),
        split: Part = "valid",
        rare: int = RARE,
        show: int | None = None,
    ) -> Surprise:
        """Measure how much each token of a text surprises the model, and which kinds of token do.

        Args:
            text: A text.
            paths: Or files, folders, names of corpora.
            split: With neither, a part of the run's own corpus.
            rare: A word is rare that occurs in the training text at most so often.
            show: How many of the first tokens to tell of one by one; all, if None.

        Raises:
            CharlmError: The text cannot be read or has no token, or the model reads both ways.
        """
        tokens, name = self._text_to_score(text, paths, split)
        if not len(tokens.ids):
            raise CharlmError("the text to score has no token; give one that is not empty")
        words = self._training_words()
        found = summarize(
            tokens.ids, self._target_log_probabilities(tokens), self.tokenizer, records=self.writes_records,
            words=words, rare=rare, show=show,
        )  # fmt: skip
        rarity = f"at most {rare} times in the training text" if words is not None else "unknown: no training text"
        return replace(found, settings=self._score_settings() | {"text": name, "rare_words": rarity})

    def compare(
        self,
        others: Sequence["Run"],
        text: str | None = None,
        *,
        path: str | Path | None = None,
        split: Part = "valid",
        block_characters: int | None = None,
        seed: int = 1,
    ) -> Comparison:
        """Score this run and others on the same text: side by side, with how sure each difference from this one is.

        Args:
            others: Runs, of any tokenizers.
            text: A text.
            path: Or a file; `-` is standard input.
            split: With neither, a part of this run's own corpus.
            block_characters: Characters of a block of the bootstrap, at least; blocks are whole lines. By default 1000,
                or a twentieth of the text where that is less.
            seed: Of the bootstrap.

        Raises:
            CharlmError: The text cannot be read or has no token, a model reads both ways, or knows no line's end.
        """
        if not others:
            raise CharlmError("a comparison needs two runs at least, got 1; name another run folder")
        name = split if path is None else str(path)
        if text is None:
            text = self._text_of(path, split)
        else:
            name = "a string"
        lines = lines_of(text)
        scored = [run._compared(text, lines) for run in (self, *others)]
        block_characters = block_characters or max(1, min(BLOCK_CHARACTERS, len(text) // 20))
        blocks = block_of_lines(lines, block_characters)
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        nats = np.add.reduceat(np.stack([one for _, one in scored]), starts, axis=1)
        characters = np.add.reduceat(np.array([len(line) for line in lines], dtype=np.float64), starts)
        runs = [one for one, _ in scored]
        settings = {
            "text": name, "of": str(self.folder), "characters": len(text), "blocks": len(starts),
            "block_characters": block_characters, "resamples": RESAMPLES, "confidence": CONFIDENCE, "seed": seed,
            "precision": "fp32", "version": charlm.__version__,
        }  # fmt: skip
        return Comparison(runs, differences(runs, nats, characters, seed=seed), settings)

    def _compared(self, text: str, lines: Sequence[str]) -> tuple[Compared, npt.NDArray[np.float64]]:
        """Return the score of a text, and its nats by lines; what stands between documents is read as text."""
        section = self.config.corpus.model_copy(update={"separator": None, "encoding": "utf-8"})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "text.txt"
            path.write_bytes(text.encode())
            source = read_text([str(path)], section, raw=self.config.tokenizer.level == "byte")
            tokens = self._encoded(source, Path(folder))
        if not len(tokens.ids):
            raise CharlmError("the text to score has no token; give one that is not empty")
        began = time.perf_counter()
        log_p = self._target_log_probabilities(tokens)
        seconds = max(time.perf_counter() - began, 1e-9)
        nats, count = -float(log_p.sum()), len(log_p)
        parameters = sum(size for _, _, size in count_parameters(self.model))
        compared = Compared(
            str(self.folder), nats / math.log(2) / len(text), nats / math.log(2) / len(text.encode()), nats / count,
            math.exp(min(nats / count, 700.0)), count, tokens.counts.unknown_share, parameters, self.state["step"],
            round(self.state["seconds"], 3), round(seconds, 3), count / seconds, len(text) / seconds,
            self._score_settings(),
        )  # fmt: skip
        return compared, nats_of_lines(tokens.ids, log_p, self.tokenizer, lines, records=self.writes_records)

    def _target_log_probabilities(self, tokens: Tokens) -> npt.NDArray[np.float64]:
        return target_log_probabilities(
            self.model, tokens.ids, mode=self.config.corpus.mode or "stream", device=self.device,
            precision=torch.float32,
        )  # fmt: skip

    def _text_of(self, path: str | Path | None, split: Part) -> str:
        """Return a file's text, or that of a part of the run's own corpus as it stands in its file."""
        if path is None:
            data = self._bytes_of(None, None, split) if split in self._own_texts() else None
            name = f"{self.folder}: its {split} part"
            if data is None:
                raise CheckpointError(f"{name} is not there; name a text with --text")
        else:
            name = str(path)
            try:
                data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
            except OSError as error:
                raise CharlmError(f"{name}: cannot be read: {error.strerror}; name a file of text") from None
        try:
            return data.removeprefix(b"\xef\xbb\xbf").decode()
        except UnicodeDecodeError as error:
            raise CharlmError(f"{name}: byte {error.start} is not UTF-8, and characters are what runs compare by; "
                              "save it as UTF-8") from None  # fmt: skip

    def _training_words(self) -> WordCounts | None:
        """Return how often each word of the training text occurs; None if that is not there any more."""
        try:
            text = self._own_texts()["train"]
        except CharlmError:
            return None
        written = as_written(text, self.tokenizer, records=self.writes_records)
        return count_words(written.decode("utf-8", "surrogateescape"))

    def _score_settings(self) -> dict[str, Any]:
        return {
            "run": str(self.folder), "checkpoint": self.which, "step": self.state["step"],
            "level": self.config.tokenizer.level, "mode": self.config.corpus.mode, "direction": self.model.direction,
            "precision": "fp32", "device": str(self.device), "training_seed": self.config.training.seed,
            "version": charlm.__version__,
        }  # fmt: skip


def _best_of(samples: Sequence[Sample], best_of: int, length_penalty: float) -> Iterator[Sample]:
    """Yield the most probable of each `best_of` samples, by normalized log-probability."""

    def score(sample: Sample) -> float:
        return normalized(sample.log_probability or 0.0, len(sample.tokens) + sample.ended, length_penalty)

    for begin in range(0, len(samples), best_of):
        yield max(samples[begin : begin + best_of], key=score)


def train(config: Config, *, out: str | Path | None = None) -> Run:
    """Train a model; return the best of the run.

    Args:
        config: From `charlm.load_config`.
        out: The run folder; by default a new one under `runs/`.

    Raises:
        CharlmError: The corpus, the device or the folder cannot be used, or the training diverged.
    """
    folder = Path(out) if out is not None else new_run_folder("run")
    for _ in run.run(run.begin(config, folder)):
        pass
    return load(folder)


def load(folder: str | Path | None = None, *, which: checkpoint.Which = "best", device: str = "auto") -> Run:
    """Load a trained model. Nothing in the run folder is executed.

    Args:
        folder: The run folder; by default the newest under `runs/`.
        which: `best` by validation loss, or `last`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, whichever it was trained on.

    Raises:
        CheckpointError: It is no run folder, or damaged.
    """
    folder = Path(folder) if folder is not None else checkpoint.newest_run(Path("runs"))
    config, tokenizer, corpus = checkpoint.load_run(folder)
    if which == "best" and not (folder / "best" / "state.json").is_file():
        which = "last"  # Stopped before its first evaluation.
    saved = checkpoint.load_checkpoint(folder / which, only="weights")
    chosen = choose_device(device)
    model = LanguageModel(config.model, tokenizer.vocabulary_size)
    checkpoint.put_weights(model, saved.tensors["weights"], saved.folder)
    return Run(folder, which, config, tokenizer, model.to(chosen).eval(), corpus, saved.state, chosen)


def of_experiment(experiment: run.Experiment) -> Run:
    """Return the model of a training as it is now, to be sampled from between two steps."""
    facts = {"step": experiment.state.step}
    return Run(
        experiment.folder, "last", experiment.config, experiment.tokenizer, experiment.model, {}, facts,
        experiment.device,
    )  # fmt: skip


def new_run_folder(name: str) -> Path:
    """Return a folder under `runs/` that does not exist yet, named after the configuration and the time."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder
