"""A trained model is scored: how probable texts are to it, what it remembers, how new what it writes is."""

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from charlm.compression.coder import Report, silent
from charlm.compression.container import Compression, compress, decompress, measure_compression
from charlm.compression.literals import Alphabet
from charlm.data.cards import Part
from charlm.data.corpus import read_text
from charlm.data.sources import absolute_names
from charlm.data.tokenizer import EOS
from charlm.data.tokens import Tokens
from charlm.data.utf8 import split_lines
from charlm.data.windows import WARM_UP
from charlm.data.written_form import written_form
from charlm.errors import CharlmError, CheckpointError
from charlm.evaluation.adaptive.adaptation import (
    FIT_TOKENS,
    SEGMENT,
    AdaptationOptions,
    ScoringOptions,
    check_methods,
    target_log_probabilities,
)
from charlm.evaluation.comparison import (
    BLOCK_CHARACTERS,
    CONFIDENCE,
    RESAMPLES,
    Compared,
    Comparison,
    block_of_lines,
    differences,
    nats_of_lines,
)
from charlm.evaluation.novelty import (
    Novelty,
    Words,
    held_out_like,
    measure_novelty,
    records_of,
)
from charlm.evaluation.perplexity import (
    Perplexity,
    fitted_temperature,
    measure,
    measure_adapted,
    unigram_loss_nats,
)
from charlm.evaluation.probes.agreement import (
    Agreement,
    ask_pairs,
    ask_sentences,
    draw_sentences,
    read_pairs,
)
from charlm.evaluation.probes.gradients import Gradients, measure_gradients
from charlm.evaluation.sentences import Sentences, read_sentences, score_sentences
from charlm.evaluation.surprisal import RARE, Surprisal, count_words, summarize
from charlm.evaluation.surprisal import Words as WordCounts
from charlm.model.language_model import count_parameters
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.trained_model import (
    TrainedModel,
    encode,
    encode_string,
    original_bytes,
    text_to_score,
    training_texts,
)
from charlm.training.devices import choose_precision
from charlm.version import VERSION


class Scorer:
    """A trained model that is asked how probable texts are, and how new its own."""

    def __init__(self, trained: TrainedModel) -> None:
        """Hold the trained model."""
        self.trained = trained

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
        mode = self.trained.config.corpus.mode
        methods = AdaptationOptions(dynamic, cache, mix_ngram, segment, fit_tokens)
        check_methods(self.trained.model, methods, mode)
        # Standard input can be read only once, so it is kept where the text is needed again.
        files = absolute_names([str(path) for path in paths]) if baselines and paths else None
        tokens, name = text_to_score(self.trained, text, files or paths, split)
        began = time.perf_counter()
        dtype = choose_precision(precision, self.trained.device)
        fitted = temperature == "fit"
        if temperature == "fit":
            held_out, _ = text_to_score(self.trained, None, (), "valid")
            temperature = fitted_temperature(
                self.trained.model, held_out, mode=mode, device=self.trained.device, precision=dtype
            )
        score = measure(
            self.trained.model,
            tokens,
            mode=mode,
            streams=streams,
            device=self.trained.device,
            precision=dtype,
            temperature=temperature,
        )
        seconds = round(time.perf_counter() - began, 3)
        counts = tokens.counts
        exact = streams == 1 or mode == "records"
        reading = ScoringOptions(
            mode, self.trained.tokenizer.vocabulary_size, self.trained.device, dtype, temperature
        )
        adapted = None
        if methods.any:
            train, valid = (
                text_to_score(self.trained, None, (), part)[0] for part in ("train", "valid")
            )
            adapted = measure_adapted(
                self.trained.model,
                tokens,
                methods,
                reading,
                train=train,
                valid=valid,
                clock=time.perf_counter,
            )
            adapted.settings["fitted_on_the_scored_text"] = (
                text is None and not paths and split == "valid"
            )
        return Perplexity(
            score.loss_nats,
            score.perplexity,
            score.bits_per(counts.characters),
            score.bits_per(counts.bytes),
            score.correct / score.tokens,
            counts.unknown_share,
            math.exp(unigram_loss_nats(self.trained.origin.corpus["train_token_counts"], tokens)),
            score.tokens,
            counts.characters,
            counts.bytes,
            seconds,
            self._settings()
            | {
                "text": name,
                "state": "zero at each record"
                if mode == "records"
                else "carried through the whole text"
                if exact
                else f"{streams} streams, each warmed up on {WARM_UP} tokens",
                "temperature": round(temperature, 4),
                **({"temperature_fitted_on": "valid"} if fitted else {}),
                "precision": precision,
            },
            adapted,
            self._baselines(tokens, original_bytes(self.trained, text, files or (), split))
            if baselines
            else None,
        )

    def sentences(
        self,
        sentences: Sequence[str] | None = None,
        *,
        path: str | Path | None = None,
        explain: bool = False,
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
            raise CharlmError(
                "sentences: none to score; give a file with one a line, or - for standard input"
            )
        lines = (
            list(enumerate(sentences, 1)) if sentences is not None else read_sentences(str(path))
        )
        ends = self.trained.writes_records or self.trained.tokenizer.separates_by_space
        found = score_sentences(
            self.trained.model,
            self.trained.tokenizer,
            lines,
            ends=ends,
            explain=explain,
            device=self.trained.device,
        )
        text = "given" if path is None else str(path)
        scored = {
            "sentences": text,
            "end": "predicted" if ends else "not predicted",
            "state": "zero at each sentence",
        }
        return Sentences(found, self._score_settings() | scored)

    def surprise(
        self,
        text: str | None = None,
        *,
        paths: Sequence[str | Path] = (),
        split: Part = "valid",
        rare: int = RARE,
        show: int | None = None,
    ) -> Surprisal:
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
        tokens, name = text_to_score(self.trained, text, paths, split)
        if not len(tokens.ids):
            raise CharlmError("the text to score has no token; give one that is not empty")
        words = self._training_words()
        found = summarize(
            tokens.ids,
            self._target_log_probabilities(tokens),
            self.trained.tokenizer,
            records=self.trained.writes_records,
            words=words,
            rare=rare,
            show=show,
        )
        rarity = (
            f"at most {rare} times in the training text"
            if words is not None
            else "unknown: no training text"
        )
        return replace(
            found, settings=self._score_settings() | {"text": name, "rare_words": rarity}
        )

    def compare(
        self,
        others: Sequence["Scorer"],
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
            raise CharlmError(
                "a comparison needs two runs at least, got 1; name another run folder"
            )
        name = split if path is None else str(path)
        if text is None:
            text = self._text_of(path, split)
        else:
            name = "a string"
        lines = split_lines(text)
        scored = [run._compared(text, lines) for run in (self, *others)]
        block_characters = block_characters or max(1, min(BLOCK_CHARACTERS, len(text) // 20))
        blocks = block_of_lines(lines, block_characters)
        starts = np.flatnonzero(np.diff(blocks, prepend=-1))
        nats = np.add.reduceat(np.stack([one for _, one in scored]), starts, axis=1)
        characters = np.add.reduceat(
            np.array([len(line) for line in lines], dtype=np.float64), starts
        )
        runs = [one for one, _ in scored]
        settings = {
            "text": name,
            "of": str(self.trained.folder),
            "characters": len(text),
            "blocks": len(starts),
            "block_characters": block_characters,
            "resamples": RESAMPLES,
            "confidence": CONFIDENCE,
            "seed": seed,
            "precision": "fp32",
            "version": VERSION,
        }
        return Comparison(runs, differences(runs, nats, characters, seed=seed), settings)

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
        settings = self._settings()
        if pairs is not None:
            settings["pairs"] = str(pairs)
            found = ask_pairs(
                self.trained.model,
                self.trained.tokenizer,
                read_pairs(pairs),
                records=self.trained.writes_records,
                device=self.trained.device,
            )
        else:
            seen = self._training_lines()
            drawn, left_out = draw_sentences(
                sentences,
                seed=seed,
                longest=longest,
                most_nouns=most_nouns,
                seen=seen or frozenset(),
            )
            settings |= {
                "sentences": sentences,
                "seed": seed,
                "longest": longest,
                "most_nouns": most_nouns,
                "left_out_as_seen": None if seen is None else left_out,
            }
            found = ask_sentences(
                self.trained.model,
                self.trained.tokenizer,
                drawn,
                records=self.trained.writes_records,
                device=self.trained.device,
            )
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
        tokens, name = text_to_score(self.trained, text, paths, split)
        found = measure_gradients(
            self.trained.model,
            tokens.ids,
            mode=self.trained.config.corpus.mode,
            window=window,
            windows=windows,
            device=self.trained.device,
        )
        return replace(found, settings=self._settings() | {"text": name} | found.settings)

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
        records = self.trained.writes_records
        parts = training_texts(self.trained)
        own = {
            part: written_form(parts[part], self.trained.tokenizer, records=records)
            for part in parts
            if part != "test"
        }
        texts, made = self._samples_to_measure(samples, path, size, temperature, seed)
        words = None
        if self.trained.config.tokenizer.level == "word":
            ids = encode(self.trained, parts["train"]).ids
            words = Words(
                ids if self.trained.tokenizer.separates_by_space else ids[ids != EOS],
                self.trained.tokenizer.encode,
            )
        held_out = held_out_like(texts, own.pop("valid", b""), records=records)
        found = measure_novelty(texts, held_out, own["train"], records=records, words=words)
        held_out_part = {"held_out": "valid" if found.held_out else None}
        return replace(found, settings=self._settings() | made | held_out_part | found.settings)

    def compress(
        self, data: bytes, *, streams: int | None = None, report: Report = silent
    ) -> bytes:
        """Make a file smaller: the arithmetic coding of its tokens by the model's probabilities.

        Args:
            data: Any bytes: what has no token is carried beside.
            streams: Pieces coded side by side: fewer are smaller, more are faster. By default by length.
            report: Told how many tokens are done, of how many.

        Raises:
            CharlmError: constriction is not installed, or the model has diverged.
        """
        return compress(data, self.trained.model, self._alphabet(), streams=streams, report=report)

    def measure_compression(
        self, data: bytes, *, streams: int | None = None, report: Report = silent
    ) -> tuple[Compression, bytes]:
        """Compress a file, and compare its size with the model's cross-entropy and with other compressors.

        Arguments as for `compress`.

        Returns:
            The comparison, and the compressed file.
        """
        found, compressed = measure_compression(
            data, self.trained.model, self._alphabet(), streams=streams, report=report
        )
        return replace(found, settings=self._settings() | found.settings), compressed

    def decompress(self, data: bytes, *, name: str = "the file", report: Report = silent) -> bytes:
        """Give back what `compress` of the same run made smaller.

        Args:
            data: The compressed file.
            name: Of that file, for messages.
            report: As for `compress`.

        Raises:
            CheckpointError: It was compressed with another model, or where other numbers are computed.
            CharlmError: It is damaged, or no compressed file; or constriction is not installed.
        """
        return decompress(data, self.trained.model, self._alphabet(), name=name, report=report)

    def _baselines(self, tokens: Tokens, text_bytes: bytes) -> list[dict[str, Any]]:
        from charlm.evaluation.baselines import baselines

        train, _ = text_to_score(self.trained, None, (), "train")
        found = baselines(
            train.ids,
            tokens.ids,
            vocabulary_size=self.trained.tokenizer.vocabulary_size,
            records=self.trained.writes_records,
            text_bytes=text_bytes,
            train_bytes=original_bytes(self.trained, split="train"),
        )
        return [baseline.to_json() for baseline in found]

    def _compared(
        self, text: str, lines: Sequence[str]
    ) -> tuple[Compared, npt.NDArray[np.float64]]:
        """Return the score of a text, and its nats by lines; what stands between documents is read as text."""
        tokens = encode_string(self.trained, text, splits_documents=False)
        if not len(tokens.ids):
            raise CharlmError("the text to score has no token; give one that is not empty")
        began = time.perf_counter()
        log_p = self._target_log_probabilities(tokens)
        seconds = max(time.perf_counter() - began, 1e-9)
        nats, count = -float(log_p.sum()), len(log_p)
        parameters = sum(size for _, _, size in count_parameters(self.trained.model))
        compared = Compared(
            str(self.trained.folder),
            nats / math.log(2) / len(text),
            nats / math.log(2) / len(text.encode()),
            nats / count,
            math.exp(min(nats / count, 700.0)),
            count,
            tokens.counts.unknown_share,
            parameters,
            self.trained.origin.state["step"],
            round(self.trained.origin.state["seconds"], 3),
            round(seconds, 3),
            count / seconds,
            len(text) / seconds,
            self._score_settings(),
        )
        return compared, nats_of_lines(
            tokens.ids, log_p, self.trained.tokenizer, lines, records=self.trained.writes_records
        )

    def _text_of(self, path: str | Path | None, split: Part) -> str:
        """Return a file's text, or that of a part of the run's own corpus as it stands in its file."""
        if path is None:
            data = (
                original_bytes(self.trained, split=split)
                if split in training_texts(self.trained)
                else None
            )
            name = f"{self.trained.folder}: its {split} part"
            if data is None:
                raise CheckpointError(f"{name} is not there; name a text with --text")
        else:
            name = str(path)
            try:
                data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
            except OSError as error:
                raise CharlmError(
                    f"{name}: cannot be read: {error.strerror}; name a file of text"
                ) from None
        try:
            return data.removeprefix(b"\xef\xbb\xbf").decode()
        except UnicodeDecodeError as error:
            raise CharlmError(
                f"{name}: byte {error.start} is not UTF-8, and characters are what runs compare by; "
                "save it as UTF-8"
            ) from None

    def _target_log_probabilities(self, tokens: Tokens) -> npt.NDArray[np.float64]:
        return target_log_probabilities(
            self.trained.model,
            tokens.ids,
            mode=self.trained.config.corpus.mode,
            device=self.trained.device,
            precision=torch.float32,
        )

    def _training_words(self) -> WordCounts | None:
        """Return how often each word of the training text occurs; None if that is not there any more."""
        try:
            text = training_texts(self.trained)["train"]
        except CharlmError:
            return None
        written = written_form(text, self.trained.tokenizer, records=self.trained.writes_records)
        return count_words(written.decode("utf-8", "surrogateescape"))

    def _training_lines(self) -> frozenset[str] | None:
        """Return lines that the model was trained on; None if its text is not there any more, or has changed."""
        try:
            text = training_texts(self.trained)["train"]
        except CharlmError:
            return None
        # The grammar's sentences begin so; the other lines of a large text need not stand in memory.
        return frozenset(
            line.decode(errors="replace")
            for block, _ in text.blocks()
            for line in block.splitlines()
            if line.startswith(b"The ")
        )

    def _samples_to_measure(
        self,
        samples: Sequence[str] | None,
        path: str | Path | None,
        size: int | None,
        temperature: float,
        seed: int,
    ) -> tuple[list[bytes], dict[str, Any]]:
        """Return texts, and how they came to be; arguments as for `novelty`."""
        records = self.trained.writes_records
        if path is not None:
            file = read_text([str(path)], self.trained.config)
            written = written_form(file, self.trained.tokenizer, records=records)
            return records_of(written) if records else [written], {"sample": str(path)}
        if samples is not None:
            return [text.encode() for text in samples], {"sample": "given"}
        size = size or (1000 if records else 20_000)
        count, length = (size, 500) if records else (1, size)
        made = {
            "sample": f"{size} {'records' if records else 'tokens'} written now",
            "temperature": temperature,
            "seed": seed,
        }
        written_now = sample(
            self.trained,
            SampleOptions(
                stop=StopCondition(length=length),
                filters=Filters(temperature=temperature),
                count=count,
                seed=seed,
            ),
        )
        return [one.text.encode() for one in written_now], made

    def _alphabet(self) -> Alphabet:
        corpus = self.trained.config.corpus
        return Alphabet(self.trained.tokenizer, corpus.mode, corpus.separator or "")

    def _score_settings(self) -> dict[str, Any]:
        return self._settings() | {"precision": "fp32"}

    def _settings(self) -> dict[str, Any]:
        """Return what every score belongs to."""
        return {
            "run": str(self.trained.folder),
            "checkpoint": self.trained.origin.which,
            "step": self.trained.origin.state["step"],
            "level": self.trained.config.tokenizer.level,
            "mode": self.trained.config.corpus.mode,
            "direction": self.trained.model.direction,
            "device": str(self.trained.device),
            "training_seed": self.trained.config.training.seed,
            "version": VERSION,
        }
