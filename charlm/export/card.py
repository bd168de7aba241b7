"""The model card of a run: what it was trained on, how good it is, and how to use it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from charlm.api import Run
from charlm.config.cell import Cell
from charlm.config.schema import Config, ResolvedConfig
from charlm.config.section import Section
from charlm.config.tokenizer import TOKEN_NAMES
from charlm.config.values import checked
from charlm.data.cards import card_names, load_card
from charlm.errors import CheckpointError, CorpusError, counted
from charlm.evaluation.options import ScoringOptions
from charlm.evaluation.perplexity import Perplexity, measure_perplexity
from charlm.export.description import About, describe_model
from charlm.export.targets import TARGETS
from charlm.runs.metrics import read_metrics
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import Sample, sample
from charlm.storage.untrusted import one_line
from charlm.trained_model import TrainedModel
from charlm.views.html import show_invisible

_TEMPERATURE = 0.8
_SEED = 1
_STREAM_TOKENS, _NUM_RECORDS, _RECORD_TOKENS = 300, 10, 200
# Everything that has a meaning in Markdown. HTML and links cannot begin without one of these.
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~&$:@-])")
_FIELDS = ("text", "state", "level", "precision", "temperature", "checkpoint", "step")


@checked
def model_card(run: Run) -> str:
    """Return the model card of a run, in Markdown.

    The score is measured on the validation text if it is at hand, else taken from the training.
    """
    return card_of(run.trained, _measured(run.trained))


def card_of(trained: TrainedModel, score: Perplexity | None, *, target: str | None = None) -> str:
    """Return a model card.

    Args:
        trained: The model.
        score: Its score; None for that of the training.
        target: Name of the target whose folder the card is in; None for a card of a run.
    """
    about = describe_model(trained, "fp32")
    made = "Imported" if _is_imported(trained) else "Trained"
    parts = [
        _front_matter(target),
        f"# {escape_markdown(about.title)}\n",
        f"A recurrent language model over {_tokens(trained)}: {about.network}, "
        f"{about.parameters:,} parameters. {made} with charlm {about.version}.\n",
        "\n".join(_text(trained, about)),
        "\n".join(_score(score, about)),
        "\n".join(_samples(trained)),
        "\n".join(_use(trained, target)),
        "\n".join(_training(trained)),
    ]
    return "\n".join(parts)


def escape_markdown(text: str) -> str:
    r"""Return a text of a corpus as Markdown that shows it, on one line.

    >>> escape_markdown("<b>*a*</b>")
    '\\<b\\>\\*a\\*\\</b\\>'
    """
    shown = " ".join(show_invisible(text).split())
    return _MARKUP.sub(r"\\\1", shown)


def code_block(text: str, language: str = "text") -> str:
    """Return a text in a block of code that nothing in the text can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{show_invisible(text)}\n{fence}"


def _tokens(trained: TrainedModel) -> str:
    return TOKEN_NAMES[trained.tokenizer.section.level]


def _measured(trained: TrainedModel) -> Perplexity | None:
    try:
        return measure_perplexity(trained, ScoringOptions())
    except (CheckpointError, CorpusError):
        return None


def _front_matter(target: str | None) -> str:
    facts: dict[str, Any] = {
        "tags": ["charlm", "recurrent-neural-network", "language-model"],
        "pipeline_tag": "text-generation",
    }
    if target == "transformers":
        facts["library_name"] = "transformers"
    return f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n"


def _text(trained: TrainedModel, about: About) -> Iterator[str]:
    corpus = trained.config.corpus
    unit = "lines" if trained.reads_lines else "documents"
    mode = f"records ({unit})" if trained.writes_records else "one stream"
    parts = trained.origin.corpus.get("parts", {})
    yield "## Text\n"
    yield "| | |\n| --- | --- |"
    yield f"| title | {escape_markdown(about.title)} |"
    yield f"| licence of the text | {escape_markdown(about.licence)} |"
    for name in corpus.text:
        if name in card_names():
            card = load_card(name)
            yield f"| language | {escape_markdown(card.language)} |"
            yield f"| source | {escape_markdown(card.source)} |"
    yield f"| read as | {mode} of {_tokens(trained)} |"
    yield f"| vocabulary | {trained.tokenizer.vocabulary_size:,} tokens |"
    for part, counts in parts.items():
        yield (
            f"| {escape_markdown(part)} | {int(counts['characters']):,} characters, "
            f"{int(counts['tokens']):,} tokens |"
        )
    yield ""


def _score(score: Perplexity | None, about: About) -> Iterator[str]:
    yield "## Score\n"
    if score is None:
        yield f"During training: {about.score}.\n"
        return
    yield "| nats per token | perplexity | bits per character | accuracy | tokens |"
    yield "| --- | --- | --- | --- | --- |"
    bits = "" if score.bits_per_character is None else f"{score.bits_per_character:.4f}"
    yield (
        f"| {score.loss_nats:.4f} | {score.perplexity:.3f} | {bits} | {score.accuracy:.1%} | "
        f"{score.tokens:,} |\n"
    )
    settings = ", ".join(f"{name} {score.settings[name]}" for name in _FIELDS)
    yield f"Measured by `charlm eval perplexity`: {escape_markdown(settings)}.\n"


def _samples(trained: TrainedModel) -> Iterator[str]:
    yield "## Samples\n"
    if trained.model.direction == "both":
        yield "The model reads in both directions and writes no text from one end to the other.\n"
        return
    texts = [each.text for each in _sampled(trained)]
    yield f"Not selected: temperature {_TEMPERATURE}, seed {_SEED}.\n"
    yield code_block((trained.record_separator or "\n").join(texts))
    yield ""


def _sampled(trained: TrainedModel) -> list[Sample]:
    is_records = trained.writes_records
    return sample(
        trained,
        SampleOptions(
            stop=StopCondition(length=_RECORD_TOKENS if is_records else _STREAM_TOKENS),
            filters=Filters(temperature=_TEMPERATURE),
            count=_NUM_RECORDS if is_records else 1,
            seed=_SEED,
        ),
    )


def _use(trained: TrainedModel, target: str | None) -> Iterator[str]:
    yield "## Use\n"
    if target == "transformers":
        yield code_block(_TRANSFORMERS, "python")
        yield ""
        return
    name = Path(one_line(trained.folder.name)).name
    yield "In the folder that contains the run folder:\n"
    run = name if re.fullmatch(r"[\w.][\w.-]*", name) else "RUN"
    lines = [
        f"charlm sample {run} --temperature {_TEMPERATURE}",
        f"charlm eval perplexity {run} TEXT",
        f"charlm serve {run}",
    ]
    for to, facts in TARGETS.items():
        if trained.model.direction in facts.directions:
            out = f"{run}-{to}" if facts.is_folder else f"{run}.{to}"
            lines.append(f"charlm export {run} --to {to} --out {out}  # {facts.writes}")
    yield code_block("\n".join(lines), "sh")
    yield ""


_TRANSFORMERS = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # This folder.
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer("", return_tensors="pt")
written = model.generate(**inputs, max_new_tokens=200, do_sample=True, temperature=0.8)
print(tokenizer.decode(written[0], skip_special_tokens=True))"""


def _is_imported(trained: TrainedModel) -> bool:
    return not trained.origin.state.get("seconds")


def _training(trained: TrainedModel) -> Iterator[str]:
    yield "## Training\n"
    if _is_imported(trained):
        yield "The model was imported; how it was trained is not known."
        return
    yield f"{_cost(trained)}\n"
    yield "With the settings below in `model.yaml`:\n"
    commands = ["charlm train --config model.yaml"]
    unit, amount = trained.budget
    if (unit, amount) != trained.config.training.budget:
        commands.append(f"charlm train --resume RUN --{unit} {amount}")
    yield code_block("\n".join(commands), "sh")
    yield "\nSettings that differ from the defaults; of files of its author, only the names:\n"
    yield code_block(_settings(trained.config), "yaml")


def _cost(trained: TrainedModel) -> str:
    """Return the cost of the training up to the checkpoint, in a sentence."""
    state = trained.origin.state
    seconds = state["seconds"]
    lines = [line for line in read_metrics(trained.folder) if line["step"] <= state["step"]]
    evaluation = sum(line.get("evaluation_seconds", 0.0) for line in lines)
    cost = f"{counted(state['step'], 'step')} in {seconds:,.1f} seconds"
    cores = state.get("cores")
    if not isinstance(cores, int):  # Checkpoints of earlier versions do not have it.
        return f"{cost}, on a number of cores that is not known."
    if state.get("device") != "cpu":
        return f"{cost} on a GPU, and {evaluation:,.1f} seconds of evaluation."
    return (
        f"{cost} on {counted(cores, 'core')}: {seconds * cores:,.1f} core "
        f"seconds, and {evaluation * cores:,.1f} core seconds of evaluation."
    )


def _settings(config: ResolvedConfig) -> str:
    """Return the fields that differ from the defaults, as YAML that `charlm train` reads."""
    sections: dict[str, Any] = {}
    for name in Config.model_fields:
        section: Section = getattr(config, name)
        values = _changed(section, Config.model_fields[name].annotation)
        if values:
            sections[name] = values
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True).rstrip("\n")


def _changed(section: Section, kind: Any) -> dict[str, Any]:
    """Return the fields of a section that differ from its defaults; texts without their folders."""
    changed = {}
    for field in section.fields_shown():
        value = getattr(section, field)
        if isinstance(value, Cell):
            value = {"kind": value.kind} | _changed(value, type(value))
            value = value["kind"] if len(value) == 1 else value
        elif value == kind.model_fields[field].default:
            continue
        if field in ("text", "valid_text", "test_text", "vectors") and value is not None:
            value = _without_folders(value)
        changed[field] = _plain(value)
    return changed


def _without_folders(names: Any) -> Any:
    if isinstance(names, str):
        return Path(names).name
    return tuple(name if name in card_names() else Path(name).name for name in names)


def _plain(value: Any) -> Any:
    """Return a value of the types of YAML; a list of one element as the element."""
    if isinstance(value, tuple):
        return value[0] if len(value) == 1 else list(value)
    return value
