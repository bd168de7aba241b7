"""`charlm sample --source` and `--source-file`: the targets that a model of a task writes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.arguments import given_options
from charlm.cli.loading import existing_run
from charlm.cli.options import choose_run
from charlm.cli.sample_inputs import read_sources
from charlm.cli.sample_options import SampleArguments
from charlm.cli.terminal import emit, emit_json
from charlm.sampling.options import CompletionOptions, build_options

if TYPE_CHECKING:  # They import torch.
    from charlm.api import Run, Translator

# Options that --source can be combined with.
_OPTIONS = ("beams", "length", "allow_unknown")
_SOURCES_PER_BATCH = 256


def write_targets(arguments: SampleArguments) -> None:
    """Print the target that a model writes for each source."""
    options = build_options(CompletionOptions, given_options(arguments, _OPTIONS))
    folder = choose_run(arguments.run, arguments.named_run)
    sources = read_sources(arguments.source, arguments.source_file)
    run = _load(folder, arguments)
    for first in range(0, len(sources), _SOURCES_PER_BATCH):
        batch = sources[first : first + _SOURCES_PER_BATCH]
        for source, target in zip(batch, run.complete(batch, **asdict(options)), strict=True):
            if arguments.as_json:
                facts = {"source": source, "target": target, "run": str(run.folder)}
                emit_json(facts | asdict(options), raw=arguments.raw)
            else:
                emit(target, raw=arguments.raw)


def _load(folder: Path | None, arguments: SampleArguments) -> "Run | Translator":
    """Load the model of a run folder, or of the newest one."""
    from charlm.runs.folder import load_run

    folder = existing_run(folder)
    is_translator = load_run(folder).config.task.kind == "translate"
    from charlm.api import load, load_translator

    load_it = load_translator if is_translator else load
    return load_it(folder, which=arguments.which, device=arguments.device)
