"""`sluice sources verify`: why a saved request is accepted, or is not."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workers.cli import requests
from workers.cli.causes import advice
from workers.cli.exits import FAILURE, USAGE, CommandError, unknown, write_json
from workers.cli.output import JsonOption, check_text, operate, plain, print_fields

if TYPE_CHECKING:
    from shared.db import Conn
    from shared.domain.events import Headers
    from shared.settings import Endpoints
    from workers.verifying import Judged


def register(app: typer.Typer) -> None:
    """Add the command to `sluice sources`."""
    app.command(
        epilog="Example: sluice sources verify stripe --body body.json --headers headers.txt"
    )(verify)


def verify(
    source: Annotated[str, typer.Argument(metavar="SOURCE")],
    body: Annotated[
        Path | None, typer.Option("--body", help="The body, byte for byte; - reads stdin.")
    ] = None,
    headers: Annotated[
        Path | None, typer.Option("--headers", help="Lines of `Name: value`, or JSON.")
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", help="One of `sluice requests list` instead.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", help="As of when, in ISO 8601; now, or when it was refused."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Say whether a saved request would be accepted, by which secret, or why not.

    Nothing is sent and nothing is stored. Exit code 0 where it would be accepted, else 1.
    """
    from shared.providers import providers
    from shared.providers.base import ConfigurationError
    from shared.sealing import KeyRing
    from shared.settings import Settings
    from shared.store.integrations import read_integration
    from workers.verifying import judge

    check_text("SOURCE", source)
    moment = _moment(at)
    if (request is None) == (body is None and headers is None):
        raise CommandError("say --body and --headers, or --request", USAGE)
    saved = None if request is not None else _saved(body, headers)
    tolerance_s = Settings.read().signature_tolerance_s

    async def run(conn: "Conn", endpoints: "Endpoints") -> "Judged":
        found = await read_integration(conn, source)
        if found is None:
            raise unknown("sources", f"no source {plain(source)}")
        content: bytes | None
        if saved is not None:
            content, fields = saved
            when = datetime.now(UTC)
        else:
            content, fields, when = await _kept(conn, source, str(request))
        keys = KeyRing.parse(endpoints.secret_key)
        try:
            return await judge(
                conn, found, providers(), keys, fields, content, moment or when, tolerance_s
            )
        except KeyError:
            raise CommandError(f"the provider {found.provider} is not installed here") from None
        except ConfigurationError as error:
            raise CommandError(f"{source} cannot be read: {error.problem}") from None

    judged = operate(run)
    _say(source, judged, as_json=as_json)
    if judged.secret is None:
        raise typer.Exit(FAILURE)


def _say(source: str, judged: "Judged", *, as_json: bool) -> None:
    from shared.store.paging import iso

    shown: dict[str, Any] = {
        "source": source,
        "accepted": judged.secret is not None,
        "secret": judged.secret,
        "cause": judged.why.cause if judged.why is not None else None,
        "hint": judged.why.hint if judged.why is not None else None,
        "whatToDo": advice(judged.why.cause) if judged.why is not None else None,
        "signedAt": iso(judged.signed_at),
    }
    if as_json:
        write_json(shown)
    else:
        print_fields({name: value for name, value in shown.items() if value is not None})


def _moment(text: str | None) -> datetime | None:
    from shared.domain.moments import MomentError, moment_before, read_moment

    if text is None:
        return None
    try:
        return moment_before(datetime.now(UTC), read_moment(text))
    except MomentError as error:
        raise CommandError(f"--at: {error}", USAGE) from None


def _saved(body: Path | None, headers: Path | None) -> "tuple[bytes, Headers]":
    import sys

    from workers.verifying import UnreadableHeadersError, read_headers

    if body is None or headers is None:
        raise CommandError("say both --body and --headers", USAGE)
    try:
        content = sys.stdin.buffer.read() if str(body) == "-" else body.read_bytes()
        return content, read_headers(headers.read_text("latin-1"))
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}", USAGE) from None
    except UnreadableHeadersError as error:
        raise CommandError(f"{headers}: {error}", USAGE) from None


async def _kept(
    conn: "Conn", source: str, request: str
) -> "tuple[bytes | None, Headers, datetime]":
    import json

    name, kept = await requests.find(conn, request)
    if name != source:
        raise CommandError(f"that request was sent to {plain(name)}", USAGE)
    is_whole = kept.body is not None and kept.body_bytes == len(kept.body)
    fields = tuple((str(field), str(value)) for field, value in json.loads(kept.headers))
    return (kept.body if is_whole else None), fields, kept.refused_at
