"""What `sluice new` writes installs, is typed and clean, and passes its own tests as it is."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shared.conformance.processes import sluice
from workers.scaffold import Kind, ScaffoldError, write_package

ROOT = Path(__file__).parents[2]
KINDS = {"provider": "lux-et-umbra", "handler": "crm2"}


def run(directory: Path, *argv: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    return subprocess.run(
        [sys.executable, "-m", *argv],
        cwd=directory, env={**kept, **environ}, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip


def passes(result: "subprocess.CompletedProcess[str]") -> None:
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-6000:]


@pytest.fixture(scope="module", params=KINDS)
def package(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The directory of a new package, and one that it is installed into."""
    parent = tmp_path_factory.mktemp(request.param)
    made = sluice("new", request.param, KINDS[request.param], "--directory", str(parent), "--json")
    passes(made)
    directory = Path(json.loads(made.stdout)["directory"])
    target = parent / "installed"
    passes(run(directory, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
               "--no-index", "--target", str(target), "."))  # fmt: skip
    return directory, target


@pytest.mark.timeout(300)
def test_its_tests_pass(package: tuple[Path, Path]) -> None:
    directory, target = package
    environ = {"PYTHONPATH": f"{target}{os.pathsep}{ROOT}"}
    result = run(directory, "pytest", "-q", "-p", "no:cacheprovider", **environ)
    passes(result)
    assert "skipped" not in result.stdout
    assert "warning" not in result.stdout, result.stdout
    assert "test_survival" not in result.stdout or "passed" in result.stdout


def test_it_is_typed_and_clean(package: tuple[Path, Path]) -> None:
    directory, _ = package
    passes(run(directory, "ruff", "check", "."))
    passes(run(directory, "ruff", "format", "--check", "."))
    passes(run(directory, "mypy", "src", "tests", MYPYPATH=str(ROOT)))
    assert tomllib.loads((directory / "pyproject.toml").read_text())["tool"]["mypy"]["strict"]


@pytest.mark.parametrize("name", ["a", "x" * 24, "a-b-c-d-e-f-g-h-i-j-k-l"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_clean_whatever_its_name(tmp_path: Path, kind: Kind, name: str) -> None:
    made = write_package(kind, name, tmp_path, frozenset())
    passes(run(made.directory, "ruff", "check", "."))
    passes(run(made.directory, "ruff", "format", "--check", "."))


def test_it_is_found_where_it_is_installed(package: tuple[Path, Path]) -> None:
    """Its entry point makes what it names, under the name that was given."""
    directory, target = package
    (name,) = (one for one in KINDS.values() if directory.name == f"sluice-{one}")
    code = (
        "from shared.providers import providers; from workers.extensions import handlers;"
        f"print({name!r} in providers() or {name!r} in handlers())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{target}{os.pathsep}{ROOT}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == "True", result.stderr


def test_nothing_is_written_over(package: tuple[Path, Path]) -> None:
    directory, _ = package
    before = (directory / "README.md").read_text()
    kind = next(kind for kind, name in KINDS.items() if directory.name.endswith(name))
    again = sluice("new", kind, KINDS[kind], "--directory", str(directory.parent))
    assert again.returncode == 5
    assert "exists already" in again.stderr
    assert (directory / "README.md").read_text() == before


@pytest.mark.parametrize(
    "name", ["", "Acme", "1st", "a_b", "a--b", "-a", "a-", "a.b", "../a", "x" * 25, "sluice", "é"]
)
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScaffoldError):
        write_package("provider", name, tmp_path, frozenset())
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_something_else_is_refused(tmp_path: Path) -> None:
    refused = sluice("new", "provider", "stripe", "--directory", str(tmp_path))
    assert refused.returncode == 5
    assert "something else" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_to_do_next_is_said(tmp_path: Path) -> None:
    made = sluice("new", "handler", "notes", "--directory", str(tmp_path))
    passes(made)
    lines = [line.strip() for line in made.stdout.splitlines()[1:]]
    assert lines == [f"cd {tmp_path / 'sluice-notes'}", "pip install --no-deps -e .", "pytest"]
