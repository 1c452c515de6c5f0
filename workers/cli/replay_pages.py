"""Plans and replays as people read them."""

from typing import Any

from shared.domain.outcomes import BODY_EXPIRED
from workers.cli.exits import write_json
from workers.cli.output import note, plain, print_fields, print_heading, print_table


def say(found: dict[str, Any], *, as_json: bool) -> None:
    """One plan or replay."""
    if as_json:
        write_json(found)
        return
    if found["kind"] == "replay-plan" and found["state"] == "done":
        say_plan(found)
        return
    error = found["error"] or {}
    print_fields(
        {
            name: value
            for name, value in {
                "id": found["id"],
                "kind": found["kind"],
                "state": found["state"],
                "plan": found["arguments"].get("plan"),
                "rate": found["arguments"].get("rate"),
                "events": how_far(found),
                **found["progress"]["counts"],
                "actor": found["actor"],
                "reason": found["arguments"].get("reason"),
                "pausedBy": found["pausedBy"],
                "cancelledBy": found["cancelledBy"],
                "code": error.get("code"),
                "error": error.get("message"),
                "createdAt": found["createdAt"],
                "finishedAt": found["finishedAt"],
            }.items()
            if value is not None
        }
    )
    if found["progress"]["failed"]:
        note(f"which ones: sluice replay show {found['id']} --events --outcome dead")


def say_plan(found: dict[str, Any]) -> None:
    """What a plan found, for people."""
    told, effect = found["result"], found["result"]["effect"]
    print_fields(
        {
            "plan": found["id"],
            "events": f"{told['events']:,}",
            "replayable": f"{told['replayable']:,}",
            "oldest": told["oldest"],
            "newest": told["newest"],
            "made": told["madeAt"],
            "configuration": told["configuration"],
        }
    )
    rows = [
        {"by": heading, "what": name, "events": f"{count:,}"}
        for heading, key in (
            ("source", "bySource"),
            ("type", "byType"),
            ("status", "byStatus"),
            ("error code", "byCode"),
            ("not replayable", "leftOut"),
        )
        for name, count in sorted(told[key].items(), key=lambda one: -one[1])
    ]
    if rows:
        print_heading("Events")
        print_table({"by": "by", "what": "what", "events": "events"}, rows, keep=3)
    if told["leftOut"].get(BODY_EXPIRED) and found["arguments"]["select"].get("type"):
        note(
            f"of {BODY_EXPIRED} the type is not known any more: all that are dead at this source"
            " with this code are counted"
        )
    print_heading("What it would change")
    outcomes = {
        **effect["outcomes"],
        **{f"not rehearsed: {code}": count for code, count in effect["notRehearsed"].items()},
    }
    changed = f"{effect['features']:,} features of {effect['tenants']:,} tenants"
    print_fields({"changes": changed if effect["features"] else "no change", **outcomes})
    if effect["changes"]:
        print_table(
            {"tenant": "tenant", "feature": "feature", "from": "from", "to": "to"},
            [
                {**one, "from": _worth(one["from"]), "to": _worth(one["to"])}
                for one in effect["changes"]
            ],
            keep=4,
        )
    for why, count in effect.get("missedBy", {}).items():
        note(f"of {count:,} tenants not everything is known: {_MISSED.get(why, why)}")
    if effect["notListed"]:
        note(f"and {effect['notListed']:,} more changes")
    if found.get("runBy") is not None:
        state = plain(found["runState"])
        note(f"job {found['runBy']} has run it, {state}: sluice replay show {found['runBy']}")
    if found.get("runState") not in (None, "cancelled", "failed") or not told["replayable"]:
        return
    if found.get("isTooOld"):
        note("it is more than an hour old: make another one (sluice replay plan) to run")
    else:
        note(f'run it within the hour: sluice replay run {found["id"]} --reason "…"')


_MISSED = {
    "catalog_behind": "they do not follow the current catalog yet. Make another plan when they do:"
    " sluice catalog status",
}


def _worth(one: dict[str, Any] | None) -> str:
    if one is None:
        return "nothing"
    until = "" if one["validUntil"] is None else f" until {plain(one['validUntil'])}"
    return f"{plain(one['value'])}{until}"


def how_far(job: dict[str, Any]) -> str:
    """How far it is, for people: 1,200 of 5,000, 3 failed."""
    done, failed, total = (job["progress"][name] for name in ("done", "failed", "total"))
    text = f"{done:,}" if total is None else f"{done:,} of {total:,}"
    return f"{text}, {failed:,} failed" if failed else text
