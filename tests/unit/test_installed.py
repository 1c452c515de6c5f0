"""What is taken of installed packages, and what is left out of them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.installed import HANDLERS_GROUP, installed
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


def test_an_exit_takes_nobody_with_it(packages: Path) -> None:
    install(packages, "leaving_early", "early", "import sys\nsys.exit('no configuration')\n")
    makes = "import sys\ndef Handles(): sys.exit('no configuration')\n"
    install(packages, "made_early", "made", makes)
    install(packages, "staying_late", "late", MODULE.format(word="Word", name="late"))
    assert [name for name, _ in installed(HANDLERS_GROUP)] == ["late", "made"]
    assert list(handlers()) == ["late"]


def test_what_is_printed_is_no_data(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is for what a command was asked for."""
    install(packages, "talking_much", "talker", MODULE.format(word="Word", name="talker"))
    assert list(handlers()) == ["talker"]
    assert capsys.readouterr() == ("", "hello\n")


def test_of_two_with_one_name_the_second_is_left_out(packages: Path) -> None:
    """The first keeps its name, and its command has a handler."""
    for module in ("twin_first", "twin_second"):
        install(packages, module, "twin", MODULE.format(word="Word", name="twin"))
    found = [make.__module__ for _, make in installed(HANDLERS_GROUP)]
    assert sorted(found) == ["twin_first", "twin_second"]
    assert [type(one).__module__ for one in handlers().values()] == found[:1]
