"""A command that has commands below it and does something by itself as well.

**Way** What does not begin with the name of a command below is the plain command's, options and all; its ``--help`` names
the others at its end.

**Limits** A file that is called as a command below must be given with its folder: ``./verify``.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

#: Name under which the plain command is mounted; nobody types it.
PLAIN = " "


class WithPlain(TyperGroup):
    """A group with a plain command, mounted as `PLAIN` and hidden."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Hand over to the plain command, in whose context the caller goes on, unless a command below is named."""
        below = {name: command for name, command in self.commands.items() if name != PLAIN}
        if args and args[0] in below:
            return super().make_context(info_name, args, parent, **extra)
        plain = self.commands[PLAIN]
        if parent is not None:
            told = (f"{parent.command_path} {info_name} {name}: {one.get_short_help_str(100)}" for name, one in below.items())
            plain.epilog = "\n\n".join(told)
        return plain.make_context(info_name, args, parent, **extra)
