"""A real bash completes commands, sources and statuses; the others get a script."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stack import Stack

SLUICE = Path(sys.executable).with_name("sluice")


def script(shell: str) -> str:
    ran = subprocess.run(
        [SLUICE, "--show-completion", shell],
        capture_output=True, text=True, check=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    return ran.stdout


def complete(line: str) -> list[str]:
    """What bash offers at the end of the line, as when somebody presses the key there."""
    words = line.split(" ")
    asked = (
        f"source <(cat <<'SCRIPT'\n{script('bash')}\nSCRIPT\n)\n"
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}\n"
        "name=$(complete -p sluice | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        '"$name" sluice; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    ran = subprocess.run(
        ["bash", "--norc", "-c", asked], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{SLUICE.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert ran.stderr == ""
    return [one for one in ran.stdout.splitlines() if one]


async def test_bash_completes_commands_sources_and_statuses(stack: Stack, home: Path) -> None:
    await stack.configure({"stripe": True, "stripe-eu": True, "gone": True})
    await stack.fetch("UPDATE sources SET removed_at = now() WHERE name = 'gone'")
    assert await asyncio.to_thread(complete, "sluice stat") == ["status"]
    assert "list" in await asyncio.to_thread(complete, "sluice events ")
    assert "--watch" in await asyncio.to_thread(complete, "sluice status --")
    assert await asyncio.to_thread(complete, "sluice events list --source str") == [
        "stripe", "stripe-eu",
    ]  # fmt: skip
    assert await asyncio.to_thread(complete, "sluice sources pause stripe-") == ["stripe-eu"]
    assert await asyncio.to_thread(complete, "sluice events list --status de") == ["dead"]
    assert await asyncio.to_thread(complete, "sluice jobs list --state fa") == ["failed"]
    assert await asyncio.to_thread(complete, "sluice outbox list --state dr") == ["dropped"]


@pytest.mark.parametrize(
    "variables",
    [
        {"SLUICE_HOME": "/nowhere"},
        {"SLUICE_DATABASE_URL": "postgresql://sluice@127.0.0.1:9/sluice"},
        {"SLUICE_TYPO": "1"},
    ],
    ids=["no stack", "no server", "not understood"],
)
def test_without_a_stack_nothing_is_offered_and_nothing_said(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLUICE_HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert complete("sluice events list --source ") == []
    assert complete("sluice events list --status de") == ["dead"]


@pytest.mark.parametrize(
    ("shell", "says"), [("zsh", "#compdef sluice"), ("fish", "--command sluice")]
)
def test_other_shells_get_their_script(shell: str, says: str) -> None:
    assert says in script(shell)


def test_it_installs_itself_for_a_shell(tmp_path: Path) -> None:
    ran = subprocess.run(
        [SLUICE, "--install-completion", "bash"], capture_output=True, text=True, check=True,
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
    )  # fmt: skip
    assert "installed" in ran.stdout
    assert "sluice" in (tmp_path / ".bashrc").read_text()
