"""A command with commands below it: which of them a line means."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from dicomnode.commands.grouping import PLAIN, WithPlain


@pytest.fixture
def app() -> typer.Typer:
    """An application of one such command."""
    both = typer.Typer(cls=WithPlain, help="Do it.")

    @both.command(PLAIN, hidden=True)
    def plain(src: str, dst: str, mode: str = "strict") -> None:
        """Do it plainly."""
        typer.echo(f"plain {src} {dst} {mode}")

    @both.command()
    def below(what: str) -> None:
        """Prove it."""
        typer.echo(f"below {what}")

    root = typer.Typer()
    root.add_typer(both, name="both")
    root.command()(lambda: None)
    return root


@pytest.mark.parametrize(("line", "said"), [
    ("both a b", "plain a b strict"),
    ("both a b --mode header", "plain a b header"),
    ("both --mode header a b", "plain a b header"),
    ("both ./below b", "plain ./below b strict"),
    ("both a below", "plain a below strict"),
    ("both -- below b", "plain below b strict"),
    ("both below x", "below x"),
])
def test_the_first_word_decides(app: typer.Typer, line: str, said: str) -> None:
    """The name of a command below, at the first place, means that one; all else is the plain command's."""
    done = CliRunner().invoke(app, line.split())
    assert (done.exit_code, done.stdout.strip()) == (0, said)


@pytest.mark.parametrize("line", ["both", "both a", "both a b c", "both a b --what", "both below"])
def test_usage_is_refused(app: typer.Typer, line: str) -> None:
    """What cannot be meant ends with 2, as without the group."""
    assert CliRunner().invoke(app, line.split()).exit_code == 2


def test_help_shows_both(app: typer.Typer) -> None:
    """The plain usage, and the commands below by name; nowhere the name under which the plain one is mounted."""
    told = CliRunner().invoke(app, ["both", "--help"], env={"COLUMNS": "120"}).stdout
    assert "Do it plainly." in told
    assert "--mode" in told
    assert "both below: Prove it." in " ".join(told.split())
    assert "Usage: root both [OPTIONS]" in " ".join(told.split())
