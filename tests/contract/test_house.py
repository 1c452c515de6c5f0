"""The rules of the house that no linter knows."""

import ast
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from shared.settings import PREFIX, Settings
from workers.cli import build

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "workers", "shared")
LONGEST_MODULE = 400
BANNED_NAMES = {
    "utils", "util", "helpers", "helper", "common", "misc", "manager", "service", "base",
}  # fmt: skip
#: The protocol of a provider is what its neighbours build on.
NAMED_WITH_REASON = {"shared/providers/base.py"}

#: Reading the clock, the environment or the network; none of it belongs into an import.
EFFECTS = {
    "now", "utcnow", "today", "time", "monotonic", "perf_counter", "getenv", "read", "find",
    "connect", "create_connection", "open_connection", "urlopen", "run", "Popen", "getaddrinfo",
    "gethostname", "token_bytes", "urandom", "uuid4",
}  # fmt: skip

IMPORT_ALL = """
import builtins, importlib, os, sys

class Environ(dict):
    def _asked(self, name):
        if str(name).startswith("SLUICE_"):
            raise AssertionError(f"{name} is read while importing")
    def __getitem__(self, name): self._asked(name); return super().__getitem__(name)
    def get(self, name, default=None): self._asked(name); return super().get(name, default)
    def __contains__(self, name): self._asked(name); return super().__contains__(name)

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "subprocess.Popen"):
        raise AssertionError(f"{event} {arguments} while importing")

os.environ = Environ(os.environ)
sys.addaudithook(refuse)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len(sys.argv) - 1)
"""

IGNORED = {"__pycache__", "dist", "node_modules"}


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def module_names() -> list[str]:
    paths = [str(ROOT / package) for package in PACKAGES]
    found = [
        info.name
        for path, package in zip(paths, PACKAGES, strict=True)
        for info in pkgutil.walk_packages([path], f"{package}.")
    ]
    return sorted([*PACKAGES, *found])


def kept_files() -> Iterator[Path]:
    """Every text file that belongs to the project."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = parts[0].startswith(".") and parts[0] not in {".ci", ".gitignore"}
        if path.is_file() and not hidden and not IGNORED & {*parts}:
            yield path


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "infra").rglob("*.md")]


def effects(source: str) -> list[str]:
    """Calls made while the module is imported: outside functions, class bodies included."""
    found: list[str] = []

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if name in EFFECTS:
                found.append(f"line {node.lineno}: {ast.unparse(node)[:60]}")
        for child in ast.iter_child_nodes(node):
            look(child)

    look(ast.parse(source))
    return found


def anchors(path: Path) -> set[str]:
    """The fragments that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


# Modules ----------------------------------------------------------------------------------------


def test_no_module_is_long() -> None:
    """What has grown beyond a few screens is cut by what makes it change."""
    lengths = {path: len(path.read_text().splitlines()) for path in modules()}
    long = {
        str(path.relative_to(ROOT)): lines
        for path, lines in lengths.items()
        if lines > LONGEST_MODULE
    }
    assert not long


def test_every_name_says_something() -> None:
    """A module is named for what it owns."""
    found = [
        str(path.relative_to(ROOT))
        for path in modules()
        if path.stem in BANNED_NAMES or path.parent.name in BANNED_NAMES
    ]
    assert set(found) == NAMED_WITH_REASON


def test_every_module_says_what_it_owns() -> None:
    """The first thing in a module is a sentence about it."""
    assert not [path for path in modules() if not ast.get_docstring(ast.parse(path.read_text()))]


def test_importing_does_nothing() -> None:
    """Every module imports in an empty environment and asks for no setting, host or process."""
    names = module_names()
    assert len(names) > 90
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names],
        capture_output=True, text=True, check=False, env={}, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(len(names))
    assert not result.stderr


def test_nothing_is_computed_from_the_world_at_import() -> None:
    """No module reads the clock, the environment or a random number before `main` runs."""
    found = {str(path.relative_to(ROOT)): effects(path.read_text()) for path in modules()}
    assert not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    "source",
    [
        "started_at = datetime.now(UTC)",
        "import os\nclass A:\n    url: str = os.getenv('SLUICE_URL')",
        "settings = Settings.read()",
        "STARTED = time.monotonic()",
    ],
)
def test_an_effect_would_be_noticed(source: str) -> None:
    """The rule sees class bodies and right-hand sides."""
    assert effects(source)


# Documents --------------------------------------------------------------------------------------


def test_every_setting_is_documented_and_no_other() -> None:
    """docs/configuration.md has a row for each variable that `Settings` reads."""
    text = (ROOT / "docs/configuration.md").read_text()
    rows = set(re.findall(rf"^\| `({PREFIX}[A-Z_]+)`", text, re.MULTILINE))
    assert rows == {PREFIX + name.upper() for name in Settings.model_fields}
    mentioned = {
        name
        for path in (*documents(), *(ROOT / "infra").rglob("*.y*ml"))
        for name in re.findall(rf"\b{PREFIX}[A-Z][A-Z_]*[A-Z]\b", path.read_text())
    }
    assert mentioned <= rows


def test_defaults_are_documented_as_they_are() -> None:
    """A row's second column is the default in the code."""
    text = (ROOT / "docs/configuration.md").read_text()
    rows = dict(re.findall(rf"^\| `{PREFIX}([A-Z_]+)` \| ([^|]*?) \|", text, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        if field.default_factory is not None or field.default is None:
            continue
        is_number = isinstance(field.default, float)
        shown = f"{field.default:g}" if is_number else str(field.default).lower()
        assert rows[name.upper()].lower() == f"`{shown}`", name


def test_every_decision_names_what_enforces_it() -> None:
    """An ADR ends with files and contracts that exist; a rule without an enforcer is a wish."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = {one["id"] for one in project["tool"]["importlinter"]["contracts"]}
    records = sorted((ROOT / "docs/adr").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    assert len(records) > 10
    for path in records:
        last = path.read_text().strip().rsplit("\n\n", 1)[1]
        assert last.startswith("**Enforced by:**"), path.name
        named = re.findall(r"`([\w./-]+)`", last)
        assert named, path.name
        for one in named:
            assert one in contracts or (ROOT / one).exists(), f"{path.name}: {one}"
        for heading in ("Context", "Decision", "Consequences", "Alternatives"):
            assert f"**{heading}.**" in path.read_text(), f"{path.name}: {heading}"


def test_every_link_leads_somewhere() -> None:
    """Relative links and their fragments resolve."""
    for path in documents():
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, fragment = target.partition("#")
            linked = (path.parent / name).resolve() if name else path
            assert linked.exists(), f"{path.name}: {target}"
            if fragment:
                assert fragment in anchors(linked), f"{path.name}: {target}"


def test_every_command_in_the_documents_exists() -> None:
    """`sluice …` in a document names a command and options that it has."""
    root = typer.main.get_command(build())
    seen = 0
    for path in documents():
        for line in re.findall(r"(?:^|[`\s/])sluice ((?:[a-z]|--)[^`\n|#]*)", path.read_text()):
            command: click.Command = root
            words = line.split()
            while words and hasattr(command, "commands") and words[0] in command.commands:
                command = command.commands[words.pop(0)]
            if words and hasattr(command, "default"):  # what it is without a command's name
                command = command.commands[command.default]  # type: ignore[attr-defined]
            known = {option for parameter in command.params for option in parameter.opts}
            if command is root and words and not words[0].startswith("--"):
                assert words[0] in {"…", "NAME"}, f"{path.name}: sluice {line}"
            for word in words:
                if word.startswith("--") and command.name != "gateway":
                    assert word.split("=")[0] in known | {"--help"}, f"{path.name}: sluice {line}"
            seen += 1
    assert seen > 20


def test_no_machine_is_named() -> None:
    """Nothing in the repository says where it was written, or where packages came from."""
    # Bracketed, so that this file does not name them either.
    words = [
        "/[w]ork/", "/[r]oot/", r"/[h]ome/\w+/", r"/[U]sers/\w+/", "[p]ythonhosted",
        r"[p]ypi\.org", "--[i]ndex-url", "--[e]xtra-index-url", "[a]rtifactory",
    ]  # fmt: skip
    pattern = re.compile("|".join(words))
    for path in kept_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found = pattern.search(text)
        assert found is None, f"{path.relative_to(ROOT)}: {found and found[0]}"


# Dependencies -----------------------------------------------------------------------------------


def requirements(name: str) -> dict[str, str]:
    """Package → the line and its hashes."""
    text = (ROOT / "requirements" / name).read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    return {re.split(r"[=\s;\[]", entry)[0]: entry for entry in entries}


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_requirements_are_exact(name: str) -> None:
    """Every package has one version and its hashes, and none an address."""
    found = requirements(name)
    assert len(found) > 40
    for package, entry in found.items():
        assert re.match(rf"{re.escape(package)}==[\w.!+]+( ;| \\)", entry), entry.splitlines()[0]
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", entry)) >= 1, package
        assert "://" not in entry, package
        assert " @ " not in entry, package
    assert "arq==0.28.0" in found["arq"]
    assert "redis==5.3.1" in found["redis"]


def test_arq_is_pinned() -> None:
    """Without the pin a resolver takes an older arq beside a newer redis."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "arq==0.28.0" in project["dependencies"]
    names = {re.split(r"[<>=;\[ ]", one)[0].lower() for one in project["dependencies"]}
    assert names <= {name.lower() for name in requirements("run.txt")}


def test_dev_and_run_agree() -> None:
    """What is tested is what runs."""
    run, dev = requirements("run.txt"), requirements("dev.txt")
    for package, entry in run.items():
        assert dev[package].splitlines()[0].split()[0] == entry.splitlines()[0].split()[0]
