"""Help texts: options in groups, and summaries of commands in full."""

from typing import Any

from typer import Abort, TyperException
from typer.core import TyperCommand, TyperGroup

_MAX_SUMMARY = 1000  # More characters than any summary has.


class GroupedCommand(TyperCommand):
    """A command whose help groups the options by `rich_help_panel`."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section per group, in the order of the options."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                group = getattr(parameter, "rich_help_panel", None) or "Options"
                groups.setdefault("Arguments" if is_argument else group, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class CommandGroup(TyperGroup):
    """A group of commands whose help shows their summaries in full, on several lines if needed."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; after Ctrl-C raise Abort, since typer would print no line.

        An error about an option without its argument gets the context of the command, which typer
        leaves out.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Abort from None
        except TyperException as error:
            name = ctx.invoked_subcommand
            command = self.get_command(ctx, name) if name else None
            if command is not None and getattr(error, "ctx", ctx) is None:
                context = type(ctx)(command, parent=ctx, info_name=name)
                error.ctx = context  # type: ignore[attr-defined]
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the name and the first sentence of each command."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(_MAX_SUMMARY))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
