"""What a command does, one call does: `train` and `load`, `Run.sample` and `Run.perplexity`."""

import math
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

import charlm
from charlm.config import Config
from charlm.data.cards import Part, cache_folder
from charlm.data.corpora import Text, open_corpus, read_text
from charlm.data.tokenizer import EOS, Decoder, Tokenizer
from charlm.data.tokens import Tokens, encode_text
from charlm.data.windows import WARM_UP
from charlm.errors import CharlmError, CheckpointError, TokenizerError
from charlm.evaluation.agreement import Agreement, ask_pairs, ask_sentences, draw_sentences, read_pairs
from charlm.evaluation.gradients import Gradients, measure_gradients
from charlm.evaluation.perplexity import Perplexity, fitted_temperature, measure, unigram_loss_nats
from charlm.evaluation.sentences import log_probabilities
from charlm.model.language_model import LanguageModel
from charlm.sampling.fill import fill
from charlm.sampling.generate import Settings, generate
from charlm.sampling.novelty import NoveltyFilter
from charlm.training import checkpoint, run
from charlm.training.hardware import choose_device, choose_precision

_ATTEMPTS_PER_NOVEL_TEXT = 50
_GAP = re.compile("_{3,}")


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote.

    Attributes:
        number: Which of the seed's sequences it is.
        prompt: What it was given to begin with.
        text: Prompt and what the model added.
        tokens: Ids that the model added, in the order it wrote them.
        ended: Whether the model ended it, by <EOS> in records mode.
    """

    number: int
    prompt: str
    text: str
    tokens: list[int]
    ended: bool


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
        length: int = 500,
        count: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 1,
        novel: bool = False,
        allow_unknown: bool = False,
    ) -> list[Sample]:
        """Write texts.

        Args:
            prompt: What each begins with; of a model that reads backward, what each ends with.
            length: Most tokens added to it.
            count: How many texts.
            temperature: 0 always takes the most probable token.
            top_k: Draw from this many most probable tokens.
            top_p: Draw from the most probable tokens that together have this probability.
            seed: The same seed writes the same texts.
            novel: Leave out texts that are in the run's corpus, and repeats.
            allow_unknown: Read what the model never saw in the prompt as <UNK>, instead of refusing it.

        Raises:
            TokenizerError: The prompt has characters or words that the model never saw.
            CharlmError: Too few of the texts are novel, or the model reads both ways.
        """
        self._check_one_way()
        prompt_ids = self.prompt_ids(prompt, allow_unknown=allow_unknown)
        settings = Settings(temperature, top_k, top_p)
        is_novel = self._novelty_filter().is_novel if novel else lambda ids: True
        found: list[Sample] = []
        tried = 0
        while len(found) < count:
            if tried >= count * _ATTEMPTS_PER_NOVEL_TEXT or (tried and temperature == 0):
                raise CharlmError(
                    f"only {len(found)} of {count} texts are novel after {tried} tries; raise --temperature, or train "
                    "for less long"
                )
            numbers = range(tried, tried + count)
            tried += count
            for sample in self._write(prompt, prompt_ids, numbers, length, settings, seed):
                if len(found) < count and is_novel(self._in_order(prompt_ids, sample.tokens)):
                    found.append(sample)
        return found

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
        self, *, prompt: str = "", length: int = 500, settings: Settings, seed: int = 1, allow_unknown: bool = False
    ) -> Iterator[str]:
        """Write one text, yielding the prompt and then each piece as it is produced; arguments as for `sample`.

        A model that reads backward writes backward: its text comes in one piece, the prompt at its end.
        """
        self._check_one_way()
        ids = self.prompt_ids(prompt, allow_unknown=allow_unknown)
        if self.model.direction == "backward":
            yield from (sample.text for sample in self._write(prompt, ids, [0], length, settings, seed))
            return
        decoder = Decoder(self.tokenizer)
        yield "".join(map(decoder.feed, ids))
        for (token,) in generate(
            self.model, ids, numbers=[0], length=length, settings=settings, seed=seed, stops_at_eos=self.writes_records
        ):
            if token is not None and not (token == EOS and self.writes_records):
                yield decoder.feed(token)
        yield decoder.flush()

    def perplexity(
        self,
        text: str | None = None,
        *,
        paths: Sequence[str | Path] = (),
        split: Part = "valid",
        streams: int = 1,
        precision: str = "fp32",
        temperature: float | Literal["fit"] = 1.0,
    ) -> Perplexity:
        """Score the model on a text: each token is predicted once, with the state carried through the whole text.

        Args:
            text: A text.
            paths: Or files, folders, names of corpora.
            split: With neither, a part of the run's own corpus.
            streams: More than one reads pieces side by side, faster and not quite exact.
            precision: `fp32` or `bf16`.
            temperature: What logits are divided by; `fit`: what is best on the validation split of the run's corpus.

        Raises:
            CharlmError: The text cannot be read, or has nothing to score; or there is nothing to fit on.
        """
        tokens, name = self._text_to_score(text, paths, split)
        mode = self.config.corpus.mode or "stream"
        began = time.perf_counter()
        dtype = choose_precision(precision, self.device)
        fitted = temperature == "fit"
        if temperature == "fit":
            held_out, _ = self._text_to_score(None, (), "valid")
            temperature = fitted_temperature(self.model, held_out, mode=mode, device=self.device, precision=dtype)
        score = measure(
            self.model, tokens, mode=mode, streams=streams, device=self.device, precision=dtype, temperature=temperature
        )
        counts = tokens.counts
        exact = streams == 1 or mode == "records"
        return Perplexity(
            score.loss_nats, score.perplexity, score.bits_per(counts.characters), score.bits_per(counts.bytes),
            score.correct / score.tokens, counts.unknown_share,
            math.exp(unigram_loss_nats(self.corpus["train_token_counts"], tokens)),
            score.tokens, counts.characters, counts.bytes, round(time.perf_counter() - began, 3),
            {
                "run": str(self.folder), "checkpoint": self.which, "step": self.state["step"], "text": name,
                "level": self.config.tokenizer.level, "mode": mode, "direction": self.model.direction,
                "state": "zero at each record" if mode == "records" else "carried through the whole text" if exact
                else f"{streams} streams, each warmed up on {WARM_UP} tokens",
                "temperature": round(temperature, 4), **({"temperature_fitted_on": "valid"} if fitted else {}),
                "precision": precision, "device": str(self.device), "seed": self.config.training.seed,
                "version": charlm.__version__,
            },
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

    def _write(
        self, prompt: str, prompt_ids: list[int], numbers: Sequence[int], length: int, settings: Settings, seed: int
    ) -> Iterator[Sample]:
        """Write texts side by side."""
        read = prompt_ids if self.model.direction == "forward" else prompt_ids[::-1]
        steps = generate(
            self.model, read, numbers=numbers, length=length, settings=settings, seed=seed,
            stops_at_eos=self.writes_records,
        )  # fmt: skip
        columns: list[list[int]] = [[] for _ in numbers]
        for tokens in steps:
            for column, token in zip(columns, tokens, strict=True):
                if token is not None:
                    column.append(token)
        for number, column in zip(numbers, columns, strict=True):
            ended = self.writes_records and column[-1:] == [EOS]
            ids = column[:-1] if ended else column
            yield Sample(number, prompt, self.tokenizer.decode(self._in_order(prompt_ids, ids)), ids, ended)

    def _in_order(self, prompt_ids: list[int], ids: list[int]) -> list[int]:
        """Return prompt and written tokens as the text has them."""
        return [*prompt_ids, *ids] if self.model.direction == "forward" else [*reversed(ids), *prompt_ids]

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
