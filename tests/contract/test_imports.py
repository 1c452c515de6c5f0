"""The import contracts hold, and each of them notices the arrow that it forbids."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: contract → arrows to plant, "importer -> imported"; an importer that does not exist is made.
PLANTED = {
    "two-processes": ["gateway.app -> workers.process", "workers.sweep -> gateway.app",
                      "shared.db -> workers.crew"],
    "nobody-needs-the-kit": ["workers.process -> shared.conformance.suite"],
    "tests-stay-tests": ["shared.db -> pytest", "workers.sweep -> coverage"],
    "conformance-layers": ["shared.conformance.damage -> shared.conformance.suite"],
    "shared-layers": ["shared.plugin -> shared.conformance",
                      "shared.store.work -> shared.queue", "shared.domain.events -> shared.db"],
    "domain-layers": ["shared.domain.states -> shared.domain.entitlements"],
    "billing-layers": ["shared.domain.billing.statuses -> shared.domain.billing.answer"],
    "worker-layers": ["workers.entitle -> workers.process",
                      "workers.handlers.scope -> workers.sweep"],
    "declaration-layers": ["workers.declaration.plans -> workers.declaration.document"],
    "stack-layers": ["workers.stack.spawn -> workers.stack.up"],
    "cli-layers": ["workers.cli.tokens -> workers.cli.events"],
    "extensions-layers": ["workers.extensions.running -> workers.extensions.following"],
    "fetching-layers": ["workers.fetching.targets -> workers.fetching.fetch"],
    "sending-layers": ["workers.sending.breaker -> workers.sending.send"],
    "retention-layers": ["workers.retention.classes -> workers.retention.prune"],
    "fetching-decides-purely": ["workers.fetching.breaker -> time",
                                "workers.fetching.answers -> random",
                                "workers.sending.breaker -> asyncio"],
    "gateway-layers": ["gateway.ingress -> gateway.api.tenants"],
    "jobs-layers": ["workers.jobs.kinds -> workers.jobs.run"],
    "api-layers": ["gateway.api.serving -> gateway.api.tenants"],
    "pure-core": ["shared.domain.register -> asyncio", "shared.providers.stripe -> httpx"],
    "domain-knows-no-vendor": ["shared.domain.outcomes -> stripe"],
    "providers-are-islands": ["shared.providers.acme -> shared.providers.stripe"],
    "stripe-layers": ["shared.providers.stripe.fields -> shared.providers.stripe.events"],
    "sender-layers": ["shared.providers.sender.tables -> shared.providers.sender.schemes"],
    "clerk-layers": ["shared.providers.clerk.fields -> shared.providers.clerk.events"],
    "polar-layers": ["shared.providers.polar.receipt -> shared.providers.polar.events"],
    "doors-know-no-domain": ["shared.queue -> shared.domain.events"],
    "store-only-stores": ["shared.store.audit -> shared.telemetry"],
    "table-families": ["shared.store.work -> shared.store.audit"],
    "one-door-to-postgres": ["shared.store.work -> asyncpg", "gateway.intake -> asyncpg"],
    "two-doors-to-redis": ["workers.stack.doctor -> redis", "gateway.intake -> arq"],
    "who-rings": ["workers.process -> shared.queue", "gateway.ingress -> shared.queue"],
    "libraries-at-the-edges": ["gateway.ingress -> stripe", "workers.crew -> cryptography",
                               "shared.providers.stripe.events -> stripe",
                               "workers.fetching.fetch -> httpx"],
    "http-is-the-gateways": ["workers.process -> starlette"],
    "terminal-is-the-clis": ["workers.trail -> rich"],
    "ingress-touches": ["gateway.ingress -> shared.store.objects",
                        "gateway.intake -> shared.store.work",
                        "gateway.api.tenants -> shared.store.configuration"],
    "gateway-decides-nothing": ["gateway.ingress -> shared.domain.entitlements"],
    "handlers-touch-the-connection": ["workers.handlers.entitlements -> shared.queue"],
    "operators-never-apply": ["workers.cli.operate -> workers.process",
                              "workers.cli.sources -> workers.fetching.fetch",
                              "workers.cli.outbox -> workers.sending.send"],
    "stack-starts-things": ["workers.stack.up -> workers.entitle"],
}  # fmt: skip
#: container → a module that nobody has placed
UNPLACED = {
    "conformance-layers": "shared.conformance.extras",
    "shared-layers": "shared.utils",
    "domain-layers": "shared.domain.misc",
    "billing-layers": "shared.domain.billing.extras",
    "worker-layers": "workers.helpers",
    "declaration-layers": "workers.declaration.parts",
    "stack-layers": "workers.stack.extras",
    "cli-layers": "workers.cli.more",
    "extensions-layers": "workers.extensions.more",
    "fetching-layers": "workers.fetching.more",
    "sending-layers": "workers.sending.more",
    "retention-layers": "workers.retention.more",
    "gateway-layers": "gateway.service",
    "jobs-layers": "workers.jobs.more",
    "api-layers": "gateway.api.more",
    "sender-layers": "shared.providers.sender.more",
    "stripe-layers": "shared.providers.stripe.others",
    "clerk-layers": "shared.providers.clerk.others",
    "polar-layers": "shared.providers.polar.others",
}


def contracts() -> dict[str, str]:
    """id → name."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {one["id"]: one["name"] for one in document["tool"]["importlinter"]["contracts"]}


def lint(directory: Path) -> tuple[int, str]:
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [str(program), "--no-cache"], cwd=directory, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr


def copy(directory: Path) -> None:
    for name in ("gateway", "workers", "shared"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)


def file_of(directory: Path, module: str) -> Path:
    path = directory / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def complaints(output: str) -> dict[str, str]:
    """Name of a broken contract → what was said of it."""
    _, _, broken = output.partition("Broken contracts")
    names = sorted(contracts().values(), key=len, reverse=True)
    pattern = "|".join(re.escape(name) for name in names)
    parts = re.split(rf"^({pattern})\s*$", broken, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_contracts_hold() -> None:
    """gateway, workers and shared import each other only as drawn."""
    code, output = lint(ROOT)
    assert code == 0, output


def test_every_contract_reports_what_it_forbids(tmp_path: Path) -> None:
    """A planted arrow is reported by the contract that is there for it."""
    assert PLANTED.keys() == contracts().keys()
    copy(tmp_path)
    for arrow in (arrow for arrows in PLANTED.values() for arrow in arrows):
        importer, imported = arrow.split(" -> ")
        with file_of(tmp_path, importer).open("a") as file:
            file.write(f"\nimport {imported}\n")
    _, output = lint(tmp_path)
    said = complaints(output)
    missed = [
        f"{number}: {arrow}"
        for number, arrows in PLANTED.items()
        for arrow in arrows
        if f"{arrow} (l." not in said.get(contracts()[number], "")
    ]
    assert not missed, output


def test_a_module_without_a_place_is_an_error(tmp_path: Path) -> None:
    """A new module has to be placed in a layer before anybody may lean on it."""
    copy(tmp_path)
    for module in UNPLACED.values():
        file_of(tmp_path, module).write_text('"""New."""\n')
    _, output = lint(tmp_path)
    said = complaints(output)
    missed = [
        module
        for number, module in UNPLACED.items()
        if module.rsplit(".", 1)[1] not in said.get(contracts()[number], "")
    ]
    assert not missed, output
