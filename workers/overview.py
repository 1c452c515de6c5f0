"""What is wrong with a deployment, in lines of words, from one look at it. Decided without I/O."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from shared.domain.verdicts import LINK_CONFLICT, NEEDS_MAPPING, UNKNOWN_STATUS
from shared.store.status import LISTED, LOOKED_AT, Looked, Window

Verdict = Literal["ok", "attention", "broken"]

#: As the alerts have them (infra/alerts.yaml).
OLD_S, VERY_OLD_S = 60.0, 600.0
PARKED_S = 3600.0
PAUSED_S = 86400.0
LATE_S = 600.0
#: An open transaction holds up whoever follows the trail; a visit takes a second.
OPEN_S = 60.0
FULL, NEARLY_FULL = 0.95, 0.8
DAYS_AHEAD, LAST_DAY = 7, 1
RUNG = 1000
NOT_LOOKED_S = 600.0
#: Some worker's sweep tells of itself every minute, late by its jitter.
NOT_HEARD_S = 180.0

#: What no event to come will mend.
ALARMING = frozenset({NEEDS_MAPPING, UNKNOWN_STATUS, LINK_CONFLICT})
#: The name of a gateway's connection of which each process has one at all times.
_GATEWAY = "sluice-gateway-sources"


class Problem(NamedTuple):
    """One line. A `note` is no reason to get up; `command` leads on."""

    severity: Literal["note", "attention", "broken"]
    text: str
    command: str

    def shown(self) -> dict[str, str]:
        """As JSON has it."""
        return self._asdict()


@dataclass(frozen=True, slots=True)
class Doorbell:
    """Redis: why it does not answer, None where it does; how many wake-ups wait in it."""

    error: str | None
    waiting: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """Everything. `looked` is None where Postgres does not answer, and `error` says why."""

    at: datetime
    looked: Looked | None
    error: str | None
    doorbell: Doorbell
    problems: list[Problem]

    @property
    def verdict(self) -> Verdict:
        """The worst of the problems; a note is none."""
        found = {problem.severity for problem in self.problems}
        return "broken" if "broken" in found else "attention" if "attention" in found else "ok"


def overview(at: datetime, looked: Looked | None, error: str | None, bell: Doorbell) -> Overview:
    """Judge what was found; the worst first."""
    problems: list[Problem] = []
    if looked is None:
        problems.append(Problem("broken", f"Postgres does not answer: {error}", "sluice doctor"))
    else:
        for judge in (_server, _fleet, _work, _dead, _parked, _sources, _refused, _outbox, _jobs):
            problems += judge(looked)
    problems += _doorbell(bell)
    order = ("broken", "attention", "note")
    problems.sort(key=lambda problem: order.index(problem.severity))
    return Overview(at, looked, error, bell, problems)


def processes_of(looked: Looked) -> dict[str, int]:
    """How many processes there are of each kind that Sluice runs."""
    counts = dict.fromkeys(("gateway", "worker", "solitary", "jobs"), 0)
    for row in looked.processes:
        kind = row["name"].removeprefix("sluice ").partition("-")[0]
        if row["name"] == _GATEWAY:
            counts["gateway"] += 1
        elif row["name"].startswith("sluice ") and kind in counts:
            counts[kind] += 1
    return counts


def span(seconds: float) -> str:
    """For people: 5 s, 3 min, 2 h, 4 d."""
    for unit_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def counted(number: int, word: str, most: int | None = None) -> str:
    """3 events, 1 event; over 2,000 events where no more than that were counted."""
    over = "over " if most is not None and number >= most else ""
    return f"{over}{number:,} {word}{'' if number == 1 else 's'}"


def _server(looked: Looked) -> Iterator[Problem]:
    server = looked.server
    if server["is_standby"]:
        text = "Postgres is a standby here: nothing can be stored or applied"
        yield Problem("broken", text, "sluice doctor")
    ahead = server["days_ahead"]
    if ahead is not None and ahead < DAYS_AHEAD:
        severity: Literal["attention", "broken"] = "broken" if ahead < LAST_DAY else "attention"
        text = f"the inbox has partitions for {counted(max(ahead, 0), 'day')} ahead only"
        yield Problem(severity, text, "sluice db migrate")
    used = server["connections"] / server["max_connections"]
    if used >= NEARLY_FULL:
        text = f"{server['connections']} of {server['max_connections']} connections are in use"
        yield Problem("broken" if used >= FULL else "attention", text, "sluice doctor")
    oldest = looked.oldest
    if oldest is not None and oldest["transaction_s"] >= OPEN_S:
        who = oldest["name"] or "somebody"
        text = f"{who} has had a transaction open for {span(oldest['transaction_s'])}"
        yield Problem("attention", text, f"psql: SELECT pg_terminate_backend({oldest['pid']})")
    named, standbys = server["synchronous_names"], looked.standbys
    # To roles without the right the state is hidden.
    if named and not any(one["sync_state"] in (None, "sync", "quorum") for one in standbys):
        text = "no synchronous standby is connected: nothing is acknowledged"
        yield Problem("broken", text, "psql: SELECT * FROM pg_stat_replication")


def _fleet(looked: Looked) -> Iterator[Problem]:
    there = processes_of(looked)
    if not there["gateway"]:
        text = "no gateway is connected: nothing is received"
        yield Problem("broken", text, "sluice gateway")
    if not there["worker"]:
        yield Problem("broken", "no worker is connected: nothing is applied", "sluice worker")
        return
    if not there["solitary"]:
        text = "no solitary is connected: what has killed a worker waits"
        yield Problem("attention", text, "sluice worker")
    if not there["jobs"]:
        text = "no process for jobs is connected: imports and exports wait"
        yield Problem("attention", text, "sluice worker")
    # What is stopped or hangs stays connected: the kernel holds its connections for it.
    if looked.heard_s is not None and looked.heard_s >= NOT_HEARD_S:
        are = "is" if there["worker"] == 1 else "are"
        text = (
            f"{counted(there['worker'], 'worker')} {are} connected, and none was heard of for"
            f" {span(looked.heard_s)}: nothing is applied"
        )
        yield Problem("broken", text, "sluice worker")
    elif looked.looked_s is not None and looked.looked_s >= NOT_LOOKED_S:
        text = f"no sweep has looked for silent sources for {span(looked.looked_s)}"
        yield Problem("attention", text, "sluice doctor")


def _work(looked: Looked) -> Iterator[Problem]:
    for row in looked.sources:
        oldest_s = row["oldest_s"]
        if oldest_s is None or oldest_s < OLD_S or row["paused_s"] is not None:
            continue
        source, only_retrying = row["source"], row["retrying"] == row["events"] > 0
        if only_retrying:
            text = (
                f"{counted(row['retrying'], 'event')} of {source} failed and"
                f" {'is' if row['retrying'] == 1 else 'are'} tried again, for {span(oldest_s)}"
            )
            command = f"sluice events list --status retrying --source {source}"
            yield Problem("attention", text, command)
            continue
        text = f"the oldest unfinished event of {source} waits for {span(oldest_s)}"
        severity: Literal["attention", "broken"] = (
            "broken" if oldest_s >= VERY_OLD_S else "attention"
        )
        yield Problem(severity, text, f"sluice events list --status received --source {source}")


def _dead(looked: Looked) -> Iterator[Problem]:
    for row in looked.dead:
        number = counted(row["events"], "event", 0 if row["more"] else None)
        since = span((looked.now - row["first_at"]).total_seconds())
        are = "is" if row["events"] == 1 else "are"
        text = f"{number} of {row['source']} {are} dead, for {since}"
        yield Problem("attention", text, "sluice issues list")


def _parked(looked: Looked) -> Iterator[Problem]:
    for row in looked.parked:
        age_s = (looked.now - row["first_at"]).total_seconds()
        if row["needs"] not in ALARMING and age_s < PARKED_S:
            continue
        number = counted(row["objects"], "object", LISTED)
        wait = "waits" if row["objects"] == 1 else "wait"
        text = f"{number} of {row['source']} {wait}: {row['needs']}, for {span(age_s)}"
        yield Problem("attention", text, f"sluice parked list --source {row['source']}")


def _sources(looked: Looked) -> Iterator[Problem]:
    for row in looked.sources:
        if row["paused_s"] is not None:
            severity: Literal["note", "attention"] = "attention"
            if row["paused_s"] < PAUSED_S:
                severity = "note"
            text = f"{row['source']} has been paused for {span(row['paused_s'])}"
            yield Problem(severity, text, f"sluice sources resume {row['source']} --reason …")
        if row["is_silent"]:
            text = (
                f"{row['source']} has been silent for {span(row['heard_s'])}, longer than ever"
                f" ({span(row['longest_gap_s'])})"
            )
            yield Problem("attention", text, "sluice sources list")


def _refused(looked: Looked) -> Iterator[Problem]:
    """Anybody may send forgeries, and that is a note; who has a secret and is refused is ours."""
    for row in looked.refused:
        source = row["source"]
        command = f"sluice requests list --source {source} --since 1h"
        if row["proven"]:
            were = "was" if row["proven"] == 1 else "were"
            number = counted(row["proven"], "request")
            text = f"{number} to {source} {were} refused, with a secret of ours"
            yield Problem("attention", text, command)
            continue
        were = "was" if row["requests"] == 1 else "were"
        text = f"{counted(row['requests'], 'request')} to {source} {were} refused in 1 h"
        yield Problem("note", f"{text}, {span(row['newest_s'])} ago", command)


def _outbox(looked: Looked) -> Iterator[Problem]:
    for row in looked.outbox:
        handler = row["handler"]
        if row["dead"]:
            are = "is" if row["dead"] == 1 else "are"
            text = f"{counted(row['dead'], 'message', LISTED)} of {handler} {are} dead"
            yield Problem("attention", text, f"sluice outbox list --state dead --handler {handler}")
        if row["oldest_s"] >= LATE_S:
            text = f"a message of {handler} has waited for {span(row['oldest_s'])}"
            yield Problem("attention", text, f"sluice outbox list --handler {handler}")


def _jobs(looked: Looked) -> Iterator[Problem]:
    jobs = looked.jobs
    if jobs["failed"]:
        are = "has" if jobs["failed"] == 1 else "have"
        text = f"{counted(jobs['failed'], 'job', LISTED)} {are} failed in 24 h"
        yield Problem("attention", text, "sluice jobs list --state failed")
    if jobs["late_s"] is not None and jobs["late_s"] >= LATE_S:
        text = f"a job has waited {span(jobs['late_s'])} for its next step"
        yield Problem("attention", text, "sluice jobs list")


def _doorbell(bell: Doorbell) -> Iterator[Problem]:
    if bell.error is not None:
        text = f"Redis does not answer ({bell.error}): events are settled a second later"
        yield Problem("attention", text, "sluice doctor")
    elif bell.waiting is not None and bell.waiting >= RUNG:
        yield Problem("attention", f"{bell.waiting:,} wake-ups wait in Redis", "sluice doctor")


def shown(found: Overview) -> dict[str, Any]:
    """As JSON has it: rates per minute, durations in seconds; what is not known is null."""
    looked = found.looked
    document: dict[str, Any] = {
        "status": found.verdict,
        "at": found.at.isoformat().replace("+00:00", "Z"),
        "problems": [problem.shown() for problem in found.problems],
        "redis": {
            "reachable": found.doorbell.error is None,
            "error": found.doorbell.error,
            "waiting": found.doorbell.waiting,
        },
        "postgres": {"reachable": looked is not None, "error": found.error},
    }
    if looked is None:
        return document
    server = dict(looked.server)
    document["postgres"] |= {
        "version": server["version"],
        "sizeBytes": server["size_bytes"],
        "connections": server["connections"],
        "maxConnections": server["max_connections"],
        "oldestTransactionS": None if looked.oldest is None else looked.oldest["transaction_s"],
        "isStandby": server["is_standby"],
        "synchronousCommit": server["synchronous_commit"],
        "synchronousStandbyNames": server["synchronous_names"],
        "standbys": [
            {"name": one["name"], "state": one["state"], "syncState": one["sync_state"]}
            for one in looked.standbys
        ],
        "partitionDaysAhead": server["days_ahead"],
    }
    jobs, configuration = looked.jobs, looked.configuration
    return document | {
        "receivedPerMinute": _per_minute(looked.received),
        "settledPerMinute": _per_minute(looked.settled),
        "unfinished": sum(row["events"] for row in looked.sources),
        "retrying": sum(row["retrying"] for row in looked.sources),
        "unfinishedIsBounded": looked.is_cut,
        "boundedAt": LOOKED_AT,
        "sources": [
            {
                "source": row["source"],
                "unfinished": row["events"],
                "retrying": row["retrying"],
                "oldestUnfinishedS": row["oldest_s"],
                "pausedS": row["paused_s"],
                "pausedBy": row["paused_by"],
                "heardS": row["heard_s"],
                "longestGapS": row["longest_gap_s"],
                "isSilent": row["is_silent"],
            }
            for row in looked.sources
        ],
        "dead": [
            {
                "source": row["source"],
                "events": row["events"],
                "firstAt": row["first_at"].isoformat().replace("+00:00", "Z"),
                "isBounded": row["more"],
            }
            for row in looked.dead
        ],
        "parked": [
            {
                "source": row["source"],
                "needs": row["needs"],
                "objects": row["objects"],
                "firstAt": row["first_at"].isoformat().replace("+00:00", "Z"),
            }
            for row in looked.parked
        ],
        "jobs": {
            "waiting": jobs["waiting"],
            "running": jobs["running"],
            "failed": jobs["failed"],
            "lateS": jobs["late_s"],
        },
        "outbox": [
            {
                "handler": row["handler"],
                "unsent": row["unsent"],
                "oldestS": row["oldest_s"],
                "dead": row["dead"],
            }
            for row in looked.outbox
        ],
        "refused": [
            {
                "source": row["source"],
                "requests": row["requests"],
                "proven": row["proven"],
                "oldestS": row["oldest_s"],
                "newestS": row["newest_s"],
            }
            for row in looked.refused
        ],
        "processes": processes_of(looked),
        "workersHeardS": looked.heard_s,
        "configuration": {
            "version": configuration["version"],
            "mode": configuration["mode"],
            "appliedAt": configuration["applied_at"].isoformat().replace("+00:00", "Z"),
            "actor": configuration["actor"],
        },
    }


def _per_minute(window: Window) -> dict[str, float | None]:
    lengths = {"minute": 1, "five_minutes": 5, "hour": 60}
    names = {"minute": "last1Min", "five_minutes": "last5Min", "hour": "last60Min"}
    return {
        names[name]: None if (found := getattr(window, name)) is None else found / minutes
        for name, minutes in lengths.items()
    }
