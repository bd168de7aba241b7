"""How `charlm sample` prints texts, as text or as JSON."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from charlm.cli.sample_writers import Writer
from charlm.cli.terminal import TextWriter, emit, emit_json, emit_result
from charlm.sampling.options import (
    DEFAULT_LENGTH,
    TEXT_SEPARATOR,
    ConstraintOptions,
    Filters,
    SampleOptions,
    SearchOptions,
    StopCondition,
)

if TYPE_CHECKING:  # They import torch.
    from charlm.sampling.fill import Fill
    from charlm.sampling.next_tokens import NextTokens
    from charlm.sampling.sample import Sample


@dataclass(frozen=True)
class Output:
    """How texts are printed.

    Attributes:
        as_json: Whether each text is a JSON object on one line.
        raw: Whether control characters are printed unescaped on a terminal.
    """

    as_json: bool
    raw: bool

    def write(self, writer: Writer, options: SampleOptions) -> None:
        """Print sampled texts; a single text is printed while it is written."""
        constraints = options.constraints
        is_batch = options.count > 1 or options.best_of > 1
        if is_batch or self.as_json or constraints.novel or constraints.max_copy is not None:
            options = replace(options, scored=self.as_json)
            self.print_samples(writer.write(options), options, writer)
        else:
            self._stream(writer, options)

    def print_samples(
        self, samples: "Sequence[Sample]", options: SampleOptions | SearchOptions, writer: Writer
    ) -> None:
        """Print texts with what separates them."""
        facts = writer.facts | {"settings": _settings(options)}
        for number, sample in enumerate(samples, start=1):
            end = _end_of_text(writer, is_last=number == len(samples))
            self._print(sample.text, sample.to_json() | facts, end=end)

    def print_filled(self, texts: "Sequence[Fill]") -> None:
        """Print texts whose gap is filled."""
        for filled in texts:
            self._print(filled.text, filled.to_json())

    def print_next_tokens(self, result: "NextTokens") -> None:
        """Print the most probable next tokens of a prompt."""
        emit_result(result, as_json=self.as_json)

    def _stream(self, writer: Writer, options: SampleOptions) -> None:
        """Print a text while it is written."""
        terminal = TextWriter(raw=self.raw)
        for piece in writer.write_stream(options):
            terminal.write(piece)
        terminal.finish()
        # To a pipe, the parts of a text that is continued are written without an end between them.
        if not options.state_out or sys.stdout.isatty():
            emit(_end_of_text(writer, is_last=True), end="", raw=self.raw)

    def _print(self, text: str, facts: Mapping[str, Any], *, end: str = "\n") -> None:
        if self.as_json:
            emit_json(facts, in_ascii=False, raw=self.raw)
            return
        terminal = TextWriter(raw=self.raw)
        terminal.write(text)
        terminal.finish()
        emit(end, end="", raw=self.raw)


def _end_of_text(writer: Writer, *, is_last: bool) -> str:
    """Return what follows a text: as in the corpus, or else a line of dashes between two."""
    end = writer.record_separator or ("\n" if is_last else TEXT_SEPARATOR)
    return f"{end}\n" if is_last and not end.endswith("\n") else end


def _settings(options: SampleOptions | SearchOptions) -> dict[str, Any]:
    """Return the settings of a text under the names of the command's options."""
    if isinstance(options, SearchOptions):
        no_filters = dict.fromkeys(asdict(Filters()))
        return {
            **no_filters,
            "no_repeat_ngram": options.no_repeat_ngram,
            "ban": list(options.ban) or None,
            "beams": options.beams,
            "best_of": 1,
            "length_penalty": options.length_penalty,
            **_stop_settings(options.stop),
            **_constraint_settings(ConstraintOptions(), state_in=None),
        }
    return {
        **asdict(options.filters),
        "ban": list(options.constraints.ban) or None,
        "beams": None,
        "best_of": options.best_of,
        "length_penalty": options.ranking_penalty if options.best_of > 1 else None,
        **_stop_settings(options.stop),
        **_constraint_settings(options.constraints, state_in=options.state_in),
    }


def _stop_settings(stop: StopCondition) -> dict[str, Any]:
    default_length = DEFAULT_LENGTH if stop.characters is None else None
    return {
        "length": default_length if stop.length is None else stop.length,
        "characters": stop.characters,
        "until": list(stop.until) or None,
    }


def _constraint_settings(constraints: ConstraintOptions, state_in: object) -> dict[str, Any]:
    return {
        "novel": constraints.novel,
        "max_copy": constraints.max_copy,
        "matching": constraints.matching,
        "state_in": None if state_in is None else str(state_in),
        "log_probabilities": "nats, of the model itself: at temperature 1, before filters, banned "
        "texts and constraints",
    }
