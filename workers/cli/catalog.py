"""`sluice catalog`: the versions of the plans, and how far the tenants have followed."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.exits import unknown, write_json
from workers.cli.following import follow
from workers.cli.output import (
    CursorOption,
    JsonOption,
    LimitOption,
    note,
    operate,
    print_fields,
    print_heading,
    print_page,
    print_table,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints

app = typer.Typer(help="The catalog: its versions, and who has them.", no_args_is_help=True)

_LATEST = 2**63 - 1  # what the database can hold


@app.command("list", epilog="Example: sluice catalog list --limit 5")
def list_command(
    limit: LimitOption = 50, cursor: CursorOption = None, as_json: JsonOption = False
) -> None:
    """List the versions, newest first, with how many tenants were derived with each."""
    from shared.store.catalogs import list_catalogs
    from shared.store.paging import decode_cursor

    def key(version: int) -> int:
        if not 0 <= int(version) <= _LATEST:
            raise ValueError
        return int(version)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        page = await list_catalogs(conn, decode_cursor(cursor, key) if cursor else None, limit)
        columns = {
            "version": "version",
            "isCurrent": "current",
            "tenants": "tenants",
            "plans": "plans",
            "appliedAt": "applied at",
            "actor": "by",
        }
        print_page(page, columns, as_json=as_json, nothing="no catalog")

    operate(run)


@app.command("show", epilog="Example: sluice catalog show 3 --json")
def show_command(
    version: Annotated[
        int | None, typer.Argument(min=0, max=_LATEST, help="Of the catalog; the current one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the plans and features of a version."""
    from shared.store.catalogs import read_catalog

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await read_catalog(conn, version)
        if found is None:
            raise unknown("catalog", f"no catalog {version}")
        if as_json:
            write_json(found)
        else:
            _print(found)

    operate(run)


@app.command("status", epilog="Example: sluice catalog status --watch")
def status_command(
    watch: Annotated[
        bool, typer.Option("--watch", help="Wait until every tenant has followed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how far the tenants have followed the current version."""
    from shared.store.catalogs import read_following

    async def run(conn: "Conn", _: "Endpoints") -> None:
        found = await (follow(conn) if watch else read_following(conn))
        if as_json:
            write_json(found.shown())
            return
        print_fields(
            {
                "catalog": found.version,
                "applied at": found.shown()["appliedAt"],
                "tenants on it": f"{found.tenants - found.remaining:,} of {found.tenants:,}",
                "remaining": f"{found.remaining:,}",
                "oldest": found.oldest,
            }
        )
        if found.remaining:
            note("workers derive them: sluice catalog status --watch")

    operate(run)


def _print(found: dict[str, Any]) -> None:
    plans, features = found["plans"], found["features"]
    state = "current" if found["isCurrent"] else "superseded"
    print_fields(
        {
            "catalog": f"{found['version']} ({state})",
            "applied at": found["appliedAt"],
            "by": found["actor"],
            "tenants on it": f"{found['tenants']:,}",
        }
    )
    if not plans:
        note("no plans: nothing is granted; declare some: sluice apply FILE")
        return
    print_heading("Plans")
    print_table(
        {
            "plan": "plan",
            "products": "products",
            "grace": "grace",
            "lasts": "lasts",
            "rank": "rank",
        },
        [_plan_row(name, plan) for name, plan in sorted(plans.items())],
        keep=5,
    )
    print_heading("Features")
    named = sorted({feature for plan in plans.values() for feature in plan["features"]})
    print_table(
        {"feature": "feature", "combine": "combine", "values": "by plan"},
        [
            {
                "feature": feature,
                "combine": features.get(feature, {}).get("combine", "max"),
                "values": ", ".join(
                    f"{name} {_value(plan['features'][feature])}"
                    for name, plan in sorted(plans.items())
                    if feature in plan["features"]
                ),
            }
            for feature in named
        ],
        keep=3,
    )


def _plan_row(name: str, plan: dict[str, Any]) -> dict[str, Any]:
    from shared.domain.catalog import DEFAULT_GRACE_S
    from workers.declaration import shown_duration

    return {
        "plan": name,
        "products": ", ".join(plan["products"]),
        "grace": shown_duration(plan.get("graceS", DEFAULT_GRACE_S)),
        "lasts": shown_duration(plan["lastsS"]) if "lastsS" in plan else None,
        "rank": plan.get("rank", 0),
    }


def _value(value: object) -> object:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value
