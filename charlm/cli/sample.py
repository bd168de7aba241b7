"""`charlm sample`: write new text."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.arguments import given_options, options_from
from charlm.cli.loading import load
from charlm.cli.options import choose_run, device_for
from charlm.cli.sample_conflicts import check_conflicts
from charlm.cli.sample_inputs import read_prompt
from charlm.cli.sample_options import FILTERS, SampleArguments
from charlm.cli.sample_output import Output
from charlm.cli.sample_targets import write_targets
from charlm.cli.sample_writers import LocalRun, connect_to
from charlm.cli.terminal import say
from charlm.errors import UnsupportedOptionError
from charlm.sampling.options import (
    FillOptions,
    NextOptions,
    SampleOptions,
    SearchOptions,
    build_options,
)

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import Run

AnyOptions = SampleOptions | SearchOptions | FillOptions | NextOptions
# Arguments that are options of sampling. Of several conflicts between them, the one of the first
# name in this order is reported.
_SAMPLING = (
    *(*FILTERS, "ban", "max_copy", "matching", "novel", "prompt", "length", "characters", "until"),
    *("count", "best_of", "seed", "beams", "length_penalty", "allow_unknown"),
    *("state_in", "state_out"),
)


@options_from(SampleArguments)
def sample(arguments: SampleArguments) -> None:
    """Write new text with a trained model.

    A model of records (lines or documents) ends its texts itself; others write --length tokens.
    Filters apply in this order: banned texts, repetition penalty, no-repeat, temperature, top k,
    top p, min p, typical, epsilon, eta.

    Try: charlm sample --prompt "The "
    """
    check_conflicts(arguments)
    if arguments.source is not None or arguments.source_file is not None:
        write_targets(arguments)
        return
    options = _build_options(arguments)
    folder = choose_run(arguments.run, arguments.named_run)
    if not isinstance(options, FillOptions):
        prompt = read_prompt(arguments.prompt, arguments.prompt_file)
        options = replace(options, prompt=prompt)
    if arguments.url is None:
        _write_here(options, folder, arguments)
    elif isinstance(options, SampleOptions):  # The others are refused beside --url.
        server = connect_to(arguments.url, folder, arguments.api_key_file)
        Output(as_json=arguments.as_json, raw=arguments.raw).write(server, options)


def _build_options(arguments: SampleArguments) -> AnyOptions:
    """Return the options of sampling, beam search, filling or listing that the arguments state."""
    values = given_options(arguments, _SAMPLING)
    if arguments.state_out is not None:
        values["state_out"] = True
    if arguments.next_tokens:
        return build_options(NextOptions, values)
    if arguments.beams is not None and arguments.fill is None:
        return build_options(SearchOptions, values)
    if arguments.seed is None and arguments.state_in is None:
        values["seed"] = secrets.randbelow(2**31)
    if arguments.fill is not None:
        return build_options(FillOptions, {**values, "text": arguments.fill})
    return build_options(SampleOptions, values)


def _write_here(options: AnyOptions, folder: Path | None, arguments: SampleArguments) -> None:
    """Print what the options ask for, with a run on this machine."""
    run = _load(folder, arguments)
    from charlm.sampling.fill import fill
    from charlm.sampling.next_tokens import next_tokens
    from charlm.sampling.search import search

    writer = LocalRun(run, arguments.state_out)
    output = Output(as_json=arguments.as_json, raw=arguments.raw)
    if isinstance(options, FillOptions):
        output.print_filled(fill(run.trained, options))
    elif isinstance(options, SearchOptions):
        output.print_samples(search(run.trained, options), options, writer)
    elif isinstance(options, NextOptions):
        output.print_next_tokens(next_tokens(run.trained, options))
    elif arguments.interactive:
        _converse(run, options, raw=arguments.raw)
    else:
        output.write(writer, options)


def _load(folder: Path | None, arguments: SampleArguments) -> "Run":
    """Load a language model, with its products in int8 if that is asked for."""
    device = device_for(arguments.device, int8=arguments.int8)
    run = load(folder, which=arguments.which, device=device)
    from charlm.trained_model import require_language_model

    require_language_model(run.trained)
    return _with_int8(run) if arguments.int8 else run


def _with_int8(run: "Run") -> "Run":
    """Return the run with products in int8; say so if they are no faster here."""
    from charlm.model.fast.int8 import has_int8_products
    from charlm.sampling.speed import seconds_per_step

    quantized = run.with_int8()
    if not has_int8_products(quantized.model):
        say("int8: this model has no product that is large enough to gain from int8; it uses fp32")
        return run
    seconds, seconds_before = (seconds_per_step(each.model) for each in (quantized, run))
    if seconds >= seconds_before:
        say(
            f"int8: a token takes {1e6 * seconds:.0f} µs, and {1e6 * seconds_before:.0f} µs in "
            "fp32: this processor gains nothing from int8 for this model; leave out --int8"
        )
    return quantized


def _converse(run: "Run", options: SampleOptions, *, raw: bool) -> None:
    """Write a text in turns with the user."""
    from charlm.cli.interactive import Conversation, converse

    direction = run.model.direction
    if direction != "forward":
        problem = (
            f"a model of direction {direction} cannot continue a line; use one of direction forward"
        )
        raise UnsupportedOptionError("interactive", problem)
    converse(Conversation(run.trained, options, raw=raw))
