"""Beacon's events arrive while processes are killed: what they give, keep and tell is exact."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from shared.conformance import Conn, KillSurvival, entitlements_of

CONFIGURATION = """
[sources.beacon]
provider = "beacon"
secrets = ["a secret of the test"]

[features.seats]
combine = "sum" # a licence of three seats: three times what the plan says

[plans.pro]
products = ["beacon:pro"]
features = { seats = 1, sso = true }
"""

HOLDERS, CHANGES, UNITS = 15, 4, 250
AT = "2026-11-21T12:00:{second:02}Z"


class TestBeaconSurvives(KillSurvival):
    configuration = CONFIGURATION
    environ = {"BEACON_CRM_URL": "{receiver}/notes"}
    schema = files("sluice_beacon").joinpath("schema.sql").read_text()

    def events(self) -> Iterator[tuple[str, bytes]]:
        for change in range(1, CHANGES + 1):
            for number in range(HOLDERS):
                yield "beacon", _licence(number, change)
        for number in range(HOLDERS):
            yield "beacon", _holder(number)
            yield "beacon", _usage(number)

    async def check(self, conn: Conn) -> None:
        for number in range(HOLDERS):
            # What the last change said, whatever came last.
            has = await entitlements_of(conn, f"tenant-{number}")
            assert has == {"seats": CHANGES, "sso": True}
        kept = await conn.fetch("SELECT licence, units FROM beacon.usage")
        assert {row["licence"]: row["units"] for row in kept} == {
            f"lic_{number}": UNITS for number in range(HOLDERS)
        }
        # Sent at least once, each time under the same key.
        notes = {one.headers["idempotency-key"]: one.body for one in self.receiver.requests}
        gained = sorted(
            (note["tenant"], note["feature"])
            for note in map(json.loads, notes.values())
            if note["what"] == "gained"
        )
        features = ("seats", "sso")
        assert gained == sorted((f"tenant-{n}", name) for n in range(HOLDERS) for name in features)


def _licence(number: int, change: int) -> bytes:
    licence = {
        "key": f"lic_{number}",
        "holder": f"hold_{number}",
        "state": "active",
        "edition": "pro",
        "seats": change,
        "changedAt": AT.format(second=change),
    }
    return _event(
        f"evt_{number}_{change}", "licence.changed", f"licence/lic_{number}", licence=licence
    )


def _holder(number: int) -> bytes:
    holder = {
        "id": f"hold_{number}",
        "reference": f"tenant-{number}",
        "changedAt": AT.format(second=9),
    }
    return _event(f"evt_{number}_h", "holder.changed", f"holder/hold_{number}", holder=holder)


def _usage(number: int) -> bytes:
    usage = {"licence": f"lic_{number}", "units": UNITS, "at": AT.format(second=9)}
    return _event(f"evt_{number}_u", "usage.reported", f"licence/lic_{number}", usage=usage)


def _event(event_id: str, kind: str, about: str, **content: Any) -> bytes:
    head = {"id": event_id, "type": kind, "at": AT.format(second=30), "about": about}
    return json.dumps({**head, **content}).encode()
