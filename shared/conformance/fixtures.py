"""
Fixture files: an event as the provider sends it, beside what it is and what it asks for.

    {
      "type": "subscription.updated",
      "headers": {"beacon-delivery": "d_1"},
      "body": {"id": "evt_1", …},
      "identity": {"eventId": "evt_1", "eventType": "subscription.updated", …},
      "commands": [{"observe": {"kind": "subscription", "objectId": "sub_1", …}}]
    }

`body` is a JSON document, sent without spaces, or text, sent as it is. `headers`, which may be
missing, are those that the provider sends besides its signature's. `identity` and `commands` are
what is expected: names in camelCase, defaults left out; any command but these two under the name
of its class, as it is encoded. `pytest --sluice-write-fixtures` writes them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from shared.domain.commands import Command, Ignore, Observe
from shared.domain.events import FETCHED, Arrival, Headers, Identity
from shared.providers.base import Provider

_KEYS = {"name", "type", "headers", "body", "identity", "commands"}


class FixtureError(Exception):
    """A fixture file cannot be read. The message names it."""


@dataclass(frozen=True, slots=True)
class Fixture:
    """
    One file. `identity` and `commands` are the expected ones as the file has them, None where it
    does not say.
    """

    path: Path
    name: str
    event_type: str
    headers: Headers
    body: bytes
    identity: Any
    commands: Any

    @property
    def is_fetched(self) -> bool:
        """Whether it is a fetch's answer, which no request brings."""
        return self.event_type == FETCHED

    def signed(self, provider: Provider, secret: str, now: datetime) -> Headers:
        """The headers of a request that carries it."""
        return with_headers(provider.sign(self.body, secret, now), self.headers)

    def carried(self, provider: Provider, secret: str, now: datetime) -> Headers:
        """The headers as the provider reads them: what the file says of them holds."""
        named = {name for name, _ in self.headers}
        signature = provider.sign(self.body, secret, now)
        return (*(one for one in signature if one[0] not in named), *self.headers)

    def arrival(self, provider: Provider, headers: Headers, body: bytes) -> Arrival:
        """
        The event as a worker reads it, with this body in place of its own.

        Raises:
            PayloadError: the provider finds no identity in it.
        """
        identity = self._answered() if self.is_fetched else provider.identify(headers, body)
        return Arrival(identity, body, headers if provider.reads_headers else ())

    def _answered(self) -> Identity:
        answer = json.loads(self.body)
        subject = f"{answer['kind']}/{answer['id']}"
        return Identity(f"sluice.fetch/{answer['number']}", FETCHED, subject, livemode=True)


def read_fixtures(directory: Path) -> list[Fixture]:
    """
    The fixtures of a directory, in the order of their names.

    Raises:
        FixtureError: there are none, or one cannot be read.
    """
    found = [read_fixture(path) for path in sorted(directory.glob("*.json"))]
    if not found:
        raise FixtureError(f"{directory} holds no fixtures (*.json)")
    return found


def read_fixture(path: Path) -> Fixture:
    """
    Read one file.

    Raises:
        FixtureError: it is not what this module's docstring shows.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FixtureError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not {"type", "body"} <= content.keys() <= _KEYS:
        raise FixtureError(f"{path}: must be an object with type and body, and may have: {_KEYS}")
    body, headers = content["body"], content.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(one, str) for one in headers.values()):
        raise FixtureError(f"{path}: headers must be an object of texts")
    return Fixture(
        path=path,
        name=content.get("name", path.stem),
        event_type=content["type"],
        headers=tuple((name.lower(), value) for name, value in headers.items()),
        body=body.encode() if isinstance(body, str) else compact(body),
        identity=content.get("identity"),
        commands=content.get("commands"),
    )


def write_expected(fixture: Fixture, identity: Identity, commands: Sequence[Command]) -> bool:
    """Put what was read into the file; whether that changed it."""
    before = fixture.path.read_text(encoding="utf-8")
    content = json.loads(before)
    content["identity"] = shown_identity(identity)
    content["commands"] = shown_commands(commands)
    after = json.dumps(content, indent=2) + "\n"
    if after != before:
        fixture.path.write_text(after, encoding="utf-8")
    return after != before


def compact(document: Any) -> bytes:
    """A document as JSON without spaces, in ASCII."""
    return json.dumps(document, separators=(",", ":")).encode()


def with_headers(signature: Headers, others: Headers) -> Headers:
    """The signature's headers, and those of the others that it does not have."""
    named = {name for name, _ in signature}
    return (*signature, *(one for one in others if one[0] not in named))


def shown_identity(identity: Identity) -> dict[str, Any]:
    """An identity as fixture files show it."""
    moment = identity.occurred_at
    return {
        "eventId": identity.event_id,
        "eventType": identity.event_type,
        "subject": identity.subject,
        "occurredAt": None if moment is None else _iso(moment),
        "account": identity.account,
        "livemode": identity.livemode,
    }


def shown_commands(commands: Sequence[Command]) -> list[dict[str, Any]]:
    """Commands as fixture files show them."""
    return [_shown(command) for command in commands]


def expected_identity(expected: Any, identity: Identity) -> dict[str, Any]:
    """The expected identity in the form of `shown_identity`, defaults added, to be compared."""
    shown = {**shown_identity(Identity("", "", "")), **(expected or {})}
    if isinstance(shown["occurredAt"], str):
        shown["occurredAt"] = _iso(datetime.fromisoformat(shown["occurredAt"]))
    return shown


def _shown(command: Command) -> dict[str, Any]:
    content = msgspec.to_builtins(command)
    if isinstance(command, Observe | Ignore):
        return {type(command).__name__.lower(): _camel(content)}
    return {type(command).__name__: content}


def _camel(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {
            re.sub(r"_([a-z])", lambda found: found[1].upper(), key): _camel(value)
            for key, value in content.items()
            if value is not None
        }
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [_camel(one) for one in content]
    return content


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
