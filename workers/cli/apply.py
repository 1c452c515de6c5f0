"""`sluice apply`: show what a file would change, and for whom; ask; write it."""

import os
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli import sources
from workers.cli.exits import FAILURE, USAGE, CommandError, write_json
from workers.cli.following import bar, follow
from workers.cli.output import (
    ActorOption,
    JsonOption,
    WhyOption,
    actor_name,
    checked_reason,
    in_transaction,
    note,
    operate,
    plain,
    print_heading,
    print_table,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.domain.entitlements import Entitlement
    from shared.sealing import KeyRing
    from shared.settings import Endpoints
    from shared.store.catalogs import Following
    from workers.declaration import Declaration
    from workers.difference import Difference
    from workers.preview import Preview

_BAR_ABOVE = 1000
#: How often it is looked again after somebody else applied meanwhile.
_LOOKS = 5
_SHOWN_LOSSES = 20


@dataclass(frozen=True, slots=True)
class Applying:
    """One call of the command: what the file says, and what was asked for."""

    declared: "Declaration"
    secrets: dict[str, list[str]]
    api_keys: dict[str, str]
    keys: "KeyRing"
    actor: str
    reason: str | None
    prune: bool
    asks: bool
    dry_run: bool
    previews: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What came of it. `version` is the configuration's that holds; `following` how far tenants have
    followed the catalog's, None where there is no new one.
    """

    found: "Difference"
    seen: "Preview | None"
    version: int
    written: bool
    following: "Following | None" = None


def apply(
    file: Annotated[Path, typer.Argument(help="TOML: mode, sources, features, plans.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what the file does not name.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the difference.")] = False,
    no_preview: Annotated[
        bool, typer.Option("--no-preview", help="Do not find out what changes for whom.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every tenant has the new catalog.")
    ] = False,
    reason: WhyOption = None,
    actor: ActorOption = None,
    as_json: JsonOption = False,
) -> None:
    """
    Apply sources, features and plans from a TOML file: one version, in one transaction.

    Shows what changes, and which tenants may then use what, before anything is written.
    """
    from shared.providers import providers
    from shared.sealing import KeyRing
    from workers.declaration import (
        DeclarationError,
        read_declaration,
        resolve_api_keys,
        resolve_secrets,
    )

    who = actor_name(actor)
    why = checked_reason(reason) if reason is not None else None
    try:
        declared = read_declaration(file.read_bytes(), providers(), str(file), file.parent)
        secrets = resolve_secrets(declared, os.environ, file.parent, providers())
        api_keys = resolve_api_keys(declared, os.environ, file.parent)
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}", USAGE) from None
    except DeclarationError as error:
        raise CommandError(str(error), USAGE) from None
    is_terminal = sys.stdin.isatty() and sys.stderr.isatty()

    async def run(conn: "Conn", endpoints: "Endpoints") -> None:
        asked = Applying(
            declared=declared,
            secrets=secrets,
            api_keys=api_keys,
            keys=KeyRing.parse(endpoints.secret_key),
            actor=who,
            reason=why,
            prune=prune,
            asks=is_terminal and not (yes or dry_run),
            dry_run=dry_run,
            previews=not no_preview,
            as_json=as_json,
        )
        outcome = await _apply(conn, asked, may_remove=yes or dry_run or is_terminal)
        pushed = {name for name, one in declared.sources.items() if "ingest" in one.settings}
        _say(outcome, endpoints, pushed, dry_run=dry_run)
        if wait and not dry_run:
            await follow(conn, outcome.found.catalog_version)
            note(f"every tenant has catalog {outcome.found.catalog_version}")
        if as_json:
            write_json(_as_json(outcome, dry_run=dry_run))

    operate(run)


async def _apply(conn: "Conn", asked: Applying, *, may_remove: bool) -> Outcome:
    """Look, show, ask and write; look again where somebody else applied and nobody was asked."""
    from shared.providers import providers
    from shared.store.catalogs import read_following
    from workers import configure

    for look in range(1, _LOOKS + 1):
        stored, found = await configure.difference(
            conn,
            asked.declared,
            asked.secrets,
            asked.keys,
            providers(),
            prune=asked.prune,
            api_keys=asked.api_keys,
        )
        if found.removes and not may_remove:
            raise CommandError("--prune removes something: say --yes to have it done", USAGE)
        if found.replaces_rotated and not may_remove:
            _show(found, None, to_stderr=True)
            raise CommandError(
                "a secret that was rotated in would be replaced: name it in the file, or say --yes",
                USAGE,
            )
        seen = None
        if asked.previews:
            from workers.preview import preview

            with bar("whom it concerns", above=_BAR_ABOVE) as report:
                seen = await preview(conn, stored, asked.declared, found, report)
        if asked.asks or not asked.as_json:
            _show(found, seen, to_stderr=asked.as_json)
        if found.is_empty or asked.dry_run:
            following = await read_following(conn) if found.derives_again else None
            return Outcome(found, seen, stored.version, written=False, following=following)
        if asked.asks and not _is_agreed():
            raise CommandError("nothing was written", FAILURE)
        try:
            version = await _write(conn, asked, shown_version=found.base_version)
        except configure.Overtaken:
            if asked.asks or look == _LOOKS:
                raise
            note("somebody else applied meanwhile; looking again")
            continue
        following = (
            await read_following(conn, found.catalog_version) if found.derives_again else None
        )
        return Outcome(found, seen, version, written=True, following=following)
    raise AssertionError("the last look returns or raises")


async def _write(conn: "Conn", asked: Applying, *, shown_version: int) -> int:
    from shared.providers import providers
    from workers import configure

    version, _ = await in_transaction(
        conn,
        lambda: configure.apply(
            conn,
            asked.declared,
            asked.secrets,
            asked.keys,
            providers(),
            prune=asked.prune,
            actor=asked.actor,
            reason=asked.reason,
            shown_version=shown_version,
            api_keys=asked.api_keys,
        ),
    )
    return version


def _show(found: "Difference", seen: "Preview | None", *, to_stderr: bool) -> None:
    """For people: what would be written, what stays although unnamed, and whom it concerns."""
    if to_stderr:
        for change in found.changes:
            note(f"{change.action:10}{change.kind} {change.name}  {'; '.join(change.details)}")
    elif found.changes:
        print_table(
            {"action": "change", "kind": "kind", "name": "name", "detail": "details"},
            [
                {**(change.shown() if not number else _BLANK), "detail": detail}
                for change in found.changes
                for number, detail in enumerate(change.details or ("",))
            ],
            keep=4,
        )
    say = note if to_stderr else print
    if found.losses:
        if not to_stderr:
            print_heading("Who would lose what")
        for loss in found.losses[:_SHOWN_LOSSES]:
            say(f"{plain(loss.tenant)} loses {loss.plan}: {', '.join(loss.features)}")
        if len(found.losses) > _SHOWN_LOSSES:
            say(f"and {len(found.losses) - _SHOWN_LOSSES:,} more")
    if seen is not None and found.derives_again:
        _show_preview(seen, to_stderr=to_stderr)


_BLANK = {"action": "", "kind": "", "name": ""}


def _show_preview(seen: "Preview", *, to_stderr: bool) -> None:
    rows = [
        {
            "tenant": change.tenant,
            "feature": change.feature,
            "change": f"{_entitlement(change.before)} → {_entitlement(change.after)}",
        }
        for change in seen.changes
    ]
    say = note if to_stderr else print
    if to_stderr:
        for row in rows:
            note(f"{plain(row['tenant'])}  {row['feature']}: {plain(row['change'])}")
    elif rows:
        print_heading("What tenants may use")
        print_table({"tenant": "tenant", "feature": "feature", "change": "from → to"}, rows, keep=3)
    if seen.tenants > seen.listed:
        say(f"and {_tenants(seen.tenants - seen.listed, 'more ')}")
    if seen.tenants:
        counts = (
            f"{count:,} {action.rpartition('.')[2]}"
            for action, count in sorted(seen.actions.items())
        )
        say(f"{_tenants(seen.tenants)} in all: {', '.join(counts)}")
    else:
        note("no tenant may use anything else than before")
    if seen.busy:
        note(f"not looked at, because workers hold their rows: {_tenants(seen.busy)}")


def _entitlement(entitlement: "Entitlement | None") -> str:
    from shared.store.paging import iso

    if entitlement is None:
        return "none"
    value = entitlement.value
    shown = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
    until = iso(entitlement.valid_until)
    return shown if until is None else f"{shown} until {plain(until)}"


def _tenants(count: int, which: str = "") -> str:
    return f"{count:,} {which}tenant{'' if count == 1 else 's'}"


def _say(
    outcome: Outcome, endpoints: "Endpoints", pushed: Collection[str], *, dry_run: bool
) -> None:
    found, following = outcome.found, outcome.following
    if found.is_empty:
        _say_nothing_changes(outcome)
    elif dry_run:
        note(f"nothing was written: this is what would become version {outcome.version + 1}")
        if following is not None and following.tenants:
            note(f"{_tenants(following.tenants)} to derive again, with a new catalog")
    elif outcome.written:
        note(
            f"version {outcome.version} is applied; running processes pick it up within two seconds"
        )
        for change in found.changes:
            if change.kind == "source" and change.action == "added":
                note(f"{change.name} receives at {sources.url_of(endpoints, change.name)}")
                if change.name in pushed:
                    url = sources.push_url_of(endpoints, change.name)
                    note(f"{change.name}: documents are pushed to {url}")
        if following is not None and following.remaining:
            note(
                f"{_tenants(following.remaining)} to derive again, with catalog"
                f" {found.catalog_version}: sluice catalog status --watch"
            )
    kept = [f"{change.kind} {change.name}" for change in found.changes if change.action == "kept"]
    if kept:
        note(f"not in the file, and kept: {', '.join(kept)} (--prune would remove them)")


def _say_nothing_changes(outcome: Outcome) -> None:
    changes = outcome.found.secrets.items()
    outdated = [(name, label) for name, change in changes for label in change.outdated]
    if not outdated:
        note(f"nothing changes: version {outcome.version} holds what the file says")
    for name, label in outdated:
        note(
            f"nothing was written: {name}'s secret {label}, which the file names, was rotated out,"
            " and is not brought back; name the one that was rotated in"
        )


def _as_json(outcome: Outcome, *, dry_run: bool) -> dict[str, Any]:
    found, following = outcome.found, outcome.following
    return {
        "version": outcome.version,
        "catalogVersion": found.catalog_version,
        "mode": found.mode,
        "written": outcome.written,
        "dryRun": dry_run,
        "changes": [change.shown() for change in found.changes],
        "losses": [
            {"plan": loss.plan, "tenant": loss.tenant, "features": list(loss.features)}
            for loss in found.losses
        ],
        "preview": outcome.seen.shown() if outcome.seen is not None else None,
        "toDerive": _to_derive(following, written=outcome.written),
    }


def _to_derive(following: "Following | None", *, written: bool) -> int:
    if following is None:
        return 0
    return following.remaining if written else following.tenants


def _is_agreed() -> bool:
    # asyncio's own handler only cancels the task, which waits for the answer: Ctrl-C would be
    # heard the second time.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return typer.confirm("Apply this?", err=True)
    finally:
        signal.signal(signal.SIGINT, heard)
