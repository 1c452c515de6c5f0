"""
The classes of what is kept: what each is, for how long, and why. `docs/retention.md` has the same
table, and a test compares the two.
"""

from collections.abc import Mapping
from typing import NamedTuple

from shared.settings import Settings


class Class(NamedTuple):
    """
    `setting` names the setting of its days, "" where there is none to set; `days` is its default,
    None: no end.
    """

    name: str
    what: str
    setting: str
    days: int | None
    why: str


CLASSES: Mapping[str, Class] = {
    one.name: one
    for one in (
        Class(
            "standard", "bodies and headers of events, in the inbox", "keep_bodies_d", 30,
            "replays, disputes and mended handlers need them for weeks, and they name persons",
        ),
        Class(
            "hold", "bodies of tenants that are held, and of events that are not finished", "",
            None, "they go when they are neither, and the time of `standard` is over",
        ),
        Class(
            "ledger",
            "which event ids were seen, and which no webhook brought; deliveries, conflicts,"
            " attempts and settlements",
            "keep_ledger_d", 400,
            "longer than any provider sends again, and a year of what became of events",
        ),
        Class(
            "observations", "snapshots of provider objects that a newer settled one outlives",
            "keep_ledger_d", 400, "the fold does not need them, and explaining the past does",
        ),
        Class(
            "jobs",
            "jobs that are over, with their failures, the names of their assets, and the events of"
            " plans of replays",
            "keep_jobs_d", 90, "what was pushed and exported is asked about for a quarter",
        ),
        Class(
            "messages", "what handlers sent, or operators dropped", "keep_messages_d", 90,
            "a receiver may know the key for as long; what is dead waits for its operator",
        ),
        Class(
            "artifacts", "files that no row names any more, and drafts that were never finished",
            "", 2, "an upload that is under way has no row yet",
        ),
    )
}  # fmt: skip


def days_of(name: str, settings: Settings) -> int | None:
    """For how many days the class is kept here; None: no end."""
    one = CLASSES[name]
    return int(getattr(settings, one.setting)) if one.setting else one.days
