"""What is taken of installed packages, and what is left out of them."""

import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from shared.installed import HANDLERS_GROUP, installed
from shared.plugin import Handler
from workers.extensions import handlers

MODULE = """
from shared.plugin import Extension, Handler, Result

print("hello")

class {word}(Extension, frozen=True):
    pass

class Handles(Handler[{word}]):
    name = "{name}"
    command = {word}
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose packages are installed for this process."""
    monkeypatch.syspath_prepend(str(tmp_path))
    handlers.cache_clear()
    yield tmp_path
    handlers.cache_clear()


def install(path: Path, module: str, name: str, text: str) -> None:
    (path / f"{module}.py").write_text(text)
    information = path / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    point = f"[{HANDLERS_GROUP}]\n{name} = {module}:Handles\n"
    (information / "entry_points.txt").write_text(point)
    sys.modules.pop(module, None)


def found_here(path: Path) -> list[str]:
    """The names of the entry points that are installed there, and nowhere else."""
    here = {one.stem for one in path.glob("*.py")}
    points = entry_points(group=HANDLERS_GROUP)
    own = {point.name for point in points if point.module in here}
    return [name for name, _ in installed(HANDLERS_GROUP) if name in own]


def handlers_here(path: Path) -> list[Handler[Any]]:
    here = {one.stem for one in path.glob("*.py")}
    return [one for one in handlers().values() if type(one).__module__ in here]


def test_an_exit_takes_nobody_with_it(packages: Path) -> None:
    install(packages, "leaving_early", "early", "import sys\nsys.exit('no configuration')\n")
    makes = "import sys\ndef Handles(): sys.exit('no configuration')\n"
    install(packages, "made_early", "made", makes)
    install(packages, "staying_late", "late", MODULE.format(word="Word", name="late"))
    assert found_here(packages) == ["late", "made"]
    assert [one.name for one in handlers_here(packages)] == ["late"]


def test_what_is_printed_is_no_data(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for what a command was asked for."""
    install(packages, "talking_much", "talker", MODULE.format(word="Word", name="talker"))
    assert [one.name for one in handlers_here(packages)] == ["talker"]
    assert capsys.readouterr() == ("", "hello\n")


def test_of_two_with_one_name_the_second_is_left_out(packages: Path) -> None:
    """The first keeps its name, and its command has a handler."""
    for module in ("twin_first", "twin_second"):
        install(packages, module, "twin", MODULE.format(word="Word", name="twin"))
    found = [make.__module__ for name, make in installed(HANDLERS_GROUP) if name == "twin"]
    assert sorted(found) == ["twin_first", "twin_second"]
    assert [type(one).__module__ for one in handlers_here(packages)] == found[:1]
