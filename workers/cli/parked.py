"""`sluice parked`: provider objects that give nothing yet, and what would help."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli.output import (
    CursorOption,
    JsonOption,
    LimitOption,
    note,
    operate,
    plain,
    print_page,
)

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.settings import Endpoints
    from shared.store.parked import Parked

app = typer.Typer(help="Parked objects: what waits, and for what.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Parked objects: what waits for a link, a mapping or a payment."""


@app.command("list", epilog="Example: sluice parked list --source stripe")
def list_command(
    source: Annotated[str | None, typer.Option("--source", help="Of this source only.")] = None,
    limit: LimitOption = 50,
    cursor: CursorOption = None,
    as_json: JsonOption = False,
) -> None:
    """List parked objects, longest waiting first, with the line that would help."""
    from shared.store.paging import decode_cursor, iso, page_of
    from shared.store.parked import list_parked

    def key(since: str, number: int) -> tuple[datetime, int]:
        return datetime.fromisoformat(since), int(number)

    async def run(conn: "Conn", _: "Endpoints") -> None:
        after = decode_cursor(cursor, key) if cursor else None
        rows = await list_parked(conn, after, source, limit + 1)
        page = page_of(rows, limit, _shown, lambda row: (iso(row.since), row.id))
        columns = {
            "object": "object",
            "needs": "needs",
            "customer": "customer",
            "source": "source",
            "since": "since",
        }
        print_page(page, columns, as_json=as_json, nothing="nothing is parked")
        if not as_json:
            for line in dict.fromkeys(item["explain"] for item in page.items):
                note(f"→ {plain(line)}")

    operate(run)


def _shown(parked: "Parked") -> dict[str, Any]:
    from shared.store.paging import iso

    return {
        "object": f"{parked.kind}/{parked.object_id}",
        "source": parked.source,
        "account": parked.account,
        "livemode": parked.livemode,
        "customer": parked.customer,
        "tenant": parked.tenant,
        "needs": parked.needs,
        "since": iso(parked.since),
        "explain": explain(parked),
    }


def explain(parked: "Parked") -> str:  # noqa: C901, PLR0911 - a line for each reason
    """What the object waits for, in one line, with the command that would help."""
    from shared.domain import verdicts
    from shared.domain.catalog import Origin

    match parked.needs:
        case verdicts.NEEDS_LINK:
            return f"nothing says whose {_whose(parked)} is: {_link(parked)}"
        case verdicts.LINK_CONFLICT:
            return f"{_whose(parked)} is claimed for several tenants; decide: {_link(parked)}"
        case verdicts.NEEDS_MAPPING:
            origin = Origin(parked.source, parked.provider)
            refs = [
                origin.product(ref)
                for entry in parked.newest.get("items", ())
                for ref in entry["refs"]
            ]
            return (
                f"no plan has one of its products ({', '.join(refs) or 'it has none'}):"
                " add it to a plan and run sluice apply"
            )
        case verdicts.NEEDS_LINE_ITEMS:
            return (
                "nothing says what was bought: put metadata.sluice_plan on the session, its payment"
                f" link into a plan, or an api_key on source {parked.source}, which asks"
            )
        case verdicts.NEEDS_PAYMENT:
            return "no purchase or invoice that Sluice has seen was paid with its payment (yet)"
        case verdicts.NEEDS_FETCH:
            return (
                f"the provider did not say what it is now: with an api_key on source"
                f" {parked.source} it is asked"
            )
        case verdicts.UNKNOWN_STATUS:
            return _unknown_word(parked)
        case verdicts.TENANT_ERASED:
            return "its tenant was erased: sluice tenants erase takes what has come since, too"
        case verdicts.SOURCE_REMOVED:
            return f"its source {parked.source} was removed: declare it again, and apply"
        case verdicts.OTHER_MODE:
            return (
                f"it is a {'live' if parked.livemode else 'test'} object, and this deployment runs"
                " in the other mode"
            )
    return f"waits for {parked.needs}"


def _unknown_word(parked: "Parked") -> str:
    from shared.domain.standings import has_words

    said = "neither grants nor revokes, and what it gave before stays"
    status = parked.newest.get("status")
    if has_words(parked.provider):
        return f"its status {status!r} is unknown to this version: it {said}"
    return (
        f"its status {status!r} is none that Sluice knows, and {said}:"
        " name it in the mapping's `statuses`, apply, and replay its event"
    )


def _whose(parked: "Parked") -> str:
    return f"customer {parked.customer}" if parked.customer else f"{parked.kind}/{parked.object_id}"


def _link(parked: "Parked") -> str:
    if parked.customer is None:
        return "it names no customer, so only the provider can (metadata.tenant_id)"
    account = f" --account {parked.account}" if parked.account else ""
    return (
        f"sluice tenants link TENANT --source {parked.source} --customer {parked.customer}{account}"
    )
