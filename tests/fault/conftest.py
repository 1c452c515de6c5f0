"""Processes that are started here keep out of the home of whoever runs the tests."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Workers and jobs make a directory for artifacts there; a stack has a home of its own."""
    monkeypatch.setenv("SLUICE_HOME", str(tmp_path / "home-of-none"))
