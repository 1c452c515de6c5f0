"""What every command of `sluice` has in common, whoever adds one."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main
from typer.testing import CliRunner

from workers.cli import build

ROOT = Path(__file__).parents[2]
WIDTH = 80

#: They run until they are stopped.
PROCESSES = {"up", "gateway", "worker"}
PRINT_NO_DATA = {"gateway", "worker"}
#: Their output is the thing itself: bytes as they came, or lines of the format that was asked for.
PRINT_THE_THING = {"events raw", "requests raw", "events export"}
#: They write to the database without a reason: its schema, and the sample events of the demo.
WRITE_WITHOUT_REASON = {
    "demo": "its events are made up, and its stack's own",
    "db migrate": "has --plan; its history is in `migrations`",
    "db prune": "what the sweep does every hour, by the same rules; has --dry-run",
    "db run": "the owner's own SQL, which no audit covers; has --dry-run",
    "new provider": "files of a package",
    "new handler": "files of a package",
}
#: What has --reason and needs no dry run would be listed here with its cause.
WITHOUT_DRY_RUN = {"replay plan": "it is one"}

ROOT_COMMAND = typer.main.get_command(build())


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    if hasattr(command, "commands"):
        for name, one in command.commands.items():
            if not one.hidden:
                yield from walk(one, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(walk(ROOT_COMMAND, ()))


def groups(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[str, click.Command]]:
    if hasattr(command, "commands"):
        if path:
            yield " ".join(path), command
        for name, one in command.commands.items():
            yield from groups(one, (*path, name))


#: What a group does where none of its commands is named: typed without its own name.
DEFAULTS = {
    f"{path} {group.default}": path
    for path, group in groups(ROOT_COMMAND)
    if getattr(group, "default", None) is not None
}


def options(command: click.Command) -> set[str]:
    return {option for one in command.params for option in one.opts}


def documented() -> str:
    return "\n".join(
        path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    )


def example_of(command: click.Command) -> str:
    found = re.match(r"Example: (sluice .+)", command.epilog or "")
    assert found, f"no epilog `Example: sluice …`, but {command.epilog!r}"
    return found[1]


def test_the_whole_tree_is_walked() -> None:
    assert {"status", "db migrate", "tenants link", "audit export", "new handler"} & COMMANDS.keys()
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does(name: str) -> None:
    command = COMMANDS[name]
    assert (command.help or "").strip(), "no help"
    for one in command.params:
        if one.param_type_name == "option":
            assert (one.help or "").strip(), f"{one.opts} has no help"


@pytest.mark.parametrize("name", dict(groups(ROOT_COMMAND)))
def test_a_group_says_what_it_is_about(name: str) -> None:
    assert (dict(groups(ROOT_COMMAND))[name].help or "").strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_one_that_can_be_typed(name: str) -> None:
    """It names this command, its options exist and have values, its arguments are complete."""
    command = COMMANDS[name]  # read by the parser itself, and not run
    line = example_of(command).split(" | ")[0].split(" > ")[0].strip()
    words = shlex.split(line)
    typed = DEFAULTS.get(name, name).split()
    length = len(typed)
    assert words[1 : 1 + length] == typed, f"the example is of another command: {line}"
    given = words[1 + length :]
    command.make_context(name, given)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_prints_data_prints_json(name: str) -> None:
    if name not in PRINT_NO_DATA | PRINT_THE_THING:
        assert "--json" in options(COMMANDS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_what_writes_says_who_and_why_and_can_be_tried(name: str) -> None:
    """Whoever asks for a reason or an actor writes; so do commands named in no exception."""
    has = options(COMMANDS[name])
    if name in WRITE_WITHOUT_REASON:
        return
    if not has & {"--reason", "--actor"}:
        assert "--yes" not in has, "asks before it does something, and says nobody who did"
        return
    wanted = {"--reason", "--actor", "--json"}
    if name not in WITHOUT_DRY_RUN:
        wanted |= {"--dry-run"}
    assert wanted <= has, f"lacks {sorted(wanted - has)}"


#: What only looks. A command in neither list is new: say which it is.
VERBS_THAT_LOOK = {
    "list", "show", "status", "explain", "members", "heads", "verify", "verify-bundle", "keys",
    "assets", "doctor", "tail", "raw", "headers", "watch", "plan",
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_unseen(name: str) -> None:
    """What is called as nothing that only looks has --actor, or is excepted by name."""
    if name in PROCESSES | WRITE_WITHOUT_REASON.keys():
        return
    verb = name.rsplit(maxsplit=1)[-1]
    if verb not in VERBS_THAT_LOOK and "--actor" not in options(COMMANDS[name]):
        assert name in LOOKS, f"{name}: does it write? then --reason, --actor, --json, --dry-run"


#: Commands that only look, and are called by another word.
LOOKS = {"events export", "drain"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented(name: str) -> None:
    typed = DEFAULTS.get(name, name)
    assert re.search(rf"sluice {typed}\b|`{typed}", documented()), (
        f"sluice {name} is in no document"
    )


@pytest.mark.parametrize("name", ["", *dict(groups(ROOT_COMMAND)), *COMMANDS])
def test_help_fits_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setenv("NO_COLOR", "1")
    shown = CliRunner().invoke(build(), [*name.split(), "--help"], terminal_width=WIDTH)
    assert shown.exit_code == 0, shown.output
    wide = [line for line in shown.output.splitlines() if len(line.rstrip()) > WIDTH]
    assert not wide
    assert "Usage:" in shown.output
