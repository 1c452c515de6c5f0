"""The command line as an operator uses it, against a database of the test's own."""

import asyncio
import contextlib
import io
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Endpoints
from workers.cli import main


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Sluice = Callable[..., Awaitable[Said]]


@pytest.fixture
def home(endpoints: Endpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLUICE_HOME by which commands find the test's database."""
    path = tmp_path / "home"
    path.mkdir()
    endpoints.save(path)
    monkeypatch.setenv("SLUICE_HOME", str(path))
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("NO_COLOR", "1")
    return path


@pytest.fixture
def sluice(home: Path, monkeypatch: pytest.MonkeyPatch) -> Sluice:
    """`await sluice("events", "list")`: the real `main`, in a thread with its own event loop."""
    del home

    def run(*args: object) -> Said:
        out, err = io.StringIO(), io.StringIO()
        code = 0
        monkeypatch.setattr(sys, "argv", ["sluice", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
        return Said(code, out.getvalue(), err.getvalue())

    async def call(*args: object) -> Said:
        return await asyncio.to_thread(run, *args)

    return call
