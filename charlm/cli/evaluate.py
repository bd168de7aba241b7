"""`charlm eval`: the group of the commands that measure a model."""

import typer

from charlm.cli import generated_texts, novelty, perplexity, probes, scores, task
from charlm.cli.help import CommandGroup

app = typer.Typer(
    help="Score a model, and measure what it copies and remembers.",
    rich_markup_mode=None,
    cls=CommandGroup,
)
app.command("perplexity")(perplexity.perplexity)
app.command("sentences")(scores.sentences)
app.command("tokens")(scores.tokens)
app.command("compare")(scores.compare)
app.command("task")(task.task)
app.command("novelty")(novelty.novelty)
app.command("memory")(probes.memory)
app.command("context")(probes.context)
app.command("gradients")(probes.gradients)
app.command("cells")(probes.cells)
app.command("agreement")(generated_texts.agreement)
app.command("parity")(generated_texts.parity)
