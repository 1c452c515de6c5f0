"""An overview as a person sees it: one screen of 80 columns and 24 lines, unless much is wrong."""

from typing import TYPE_CHECKING, Any

from workers.cli.output import plain

if TYPE_CHECKING:
    from rich.text import Text

    from shared.store.status import Looked, Window
    from workers.overview import Overview, Problem

_COLOURS = {"ok": "green", "attention": "yellow", "broken": "red", "note": ""}
_SIGNS = {"note": "-", "attention": "!", "broken": "X"}
#: Problems and sources that are shown on a screen at least; what is left out is counted.
_PROBLEMS, _SOURCES = 5, 3


def screen(found: "Overview", width: int, height: int | None) -> "Text":
    """The lines, none of them wider than `width`; with a `height` no more than fit."""
    from rich.text import Text

    head = [_headline(found, width)]
    facts = [Text(line) for line in _facts(found)]
    table = _sources(found, width)
    problems = [_problem(problem, width) for problem in found.problems]
    room = 10_000 if height is None else height - 1 - len(head) - len(facts) - 1
    shown, left = _fitting(problems, max(room - min(len(table), _SOURCES + 1), _PROBLEMS))
    lines = [*head, *shown]
    if left:
        lines.append(Text(f"  and {left} more (--json has everything)"))
    lines += ([Text("")] if shown else []) + facts
    room = 10_000 if height is None else height - 1 - len(lines)
    if len(table) > room:
        kept = max(room - 1, 0)
        table = [*table[:kept], Text(f"and {len(table) - kept} more sources")] if kept > 1 else []
    whole = Text("\n").join([*lines, *table])
    whole.no_wrap, whole.overflow = True, "ellipsis"
    return whole


def _headline(found: "Overview", width: int) -> "Text":
    from rich.text import Text

    serious = sum(problem.severity != "note" for problem in found.problems)
    text = f"{found.verdict}" + (
        f": {serious} problem{'s' if serious > 1 else ''}" if serious else ""
    )
    at = plain(found.at.isoformat().replace("+00:00", "Z"))
    line = Text(text, style=f"bold {_COLOURS[found.verdict]}")
    line.append(
        at.rjust(max(width if width < 1000 else 80, 40) - len(text)), style="not bold default"
    )
    return line


def _problem(problem: "Problem", width: int) -> "list[Text]":
    """One line with its command where both fit, else the command on a line of its own."""
    from rich.text import Text

    sign = Text(f"{_SIGNS[problem.severity]} ", style=_COLOURS[problem.severity])
    text, command = plain(problem.text), plain(problem.command)
    if len(text) + len(command) + 4 <= width:
        return [sign + Text(f"{text}: ") + Text(command, style="bold")]
    if len(text) + 2 > width:
        text = text[: width - 3] + "…"
    return [sign + Text(text), Text("  → ") + Text(command[: width - 4], style="bold")]


def _fitting(problems: "list[list[Text]]", room: int) -> "tuple[list[Text], int]":
    lines: list[Text] = []
    for number, problem in enumerate(problems):
        is_last = number == len(problems) - 1
        if len(lines) + len(problem) + (not is_last) > room:
            return lines, len(problems) - number
        lines += problem
    return lines, 0


def _facts(found: "Overview") -> list[str]:
    looked, bell = found.looked, found.doorbell
    redis = bell.error or f"answers, {bell.waiting or 0:,} wake-ups wait"
    if looked is None:
        return [_fact("Redis", redis)]
    from workers.overview import counted, processes_of, span

    jobs, server, configuration = looked.jobs, looked.server, looked.configuration
    events = sum(row["events"] for row in looked.sources)
    retrying = sum(row["retrying"] for row in looked.sources)
    over = "over " if looked.is_cut else ""
    dead = sum(row["events"] for row in looked.dead)
    more = "over " if any(row["more"] for row in looked.dead) else ""
    firsts = [row["first_at"] for row in looked.dead]
    since = f", since {plain(min(firsts).isoformat())[:19]}Z" if firsts else ""
    parked: dict[str, int] = {}
    for row in looked.parked:
        parked[row["needs"]] = parked.get(row["needs"], 0) + row["objects"]
    waits = ", ".join(f"{needs} {count:,}" for needs, count in parked.items()) or "0"
    unsent = sum(row["unsent"] for row in looked.outbox)
    stuck_s = max((row["oldest_s"] for row in looked.outbox), default=0.0)
    late = f", the oldest for {span(stuck_s)}" if unsent else ""
    lost = sum(row["dead"] for row in looked.outbox)
    there = processes_of(looked)
    sync = f", sync to {server['synchronous_names']}" if server["synchronous_names"] else ""
    oldest_s = 0.0 if looked.oldest is None else looked.oldest["transaction_s"]
    age = span((looked.now - configuration["applied_at"]).total_seconds())
    return [
        f"{'per minute':14}{'1 min':>9}{'5 min':>9}{'60 min':>9}",
        f"{'received':14}{_rates(looked.received)}",
        f"{'settled':14}{_rates(looked.settled)}",
        _fact("unfinished", f"{over}{events:,}, {over}{retrying:,} of them tried again"),
        _fact("dead in 24 h", f"{more}{dead:,}{since}"),
        _fact("parked", waits),
        _fact(
            "jobs",
            f"{jobs['running']:,} running, {jobs['waiting']:,} waiting,"
            f" {jobs['failed']:,} failed in 24 h",
        ),
        _fact("outbox", f"{unsent:,} unsent{late}, {lost:,} dead"),
        _fact(
            "processes",
            f"{counted(there['gateway'], 'gateway')}, {counted(there['worker'], 'worker')},"
            f" {there['solitary']} solitary, {there['jobs']} for jobs",
        ),
        _fact("Redis", redis),
        _fact(
            "Postgres",
            f"{_size(server['size_bytes'])}, {server['connections']} of"
            f" {server['max_connections']} connections, oldest transaction {span(oldest_s)}{sync}",
        ),
        _fact(
            "configuration",
            f"{configuration['version']} ({configuration['mode']}), {age} ago by"
            f" {configuration['actor']}; {server['days_ahead']} days of inbox ahead",
        ),
        "",
    ]


def _fact(name: str, text: str) -> str:
    return f"{name:15}{plain(text)}"


def _rates(window: "Window") -> str:
    shown = []
    for count, minutes in zip(window, (1, 5, 60), strict=True):
        rate = None if count is None else count / minutes
        shown.append("-" if rate is None else f"{rate:,.1f}" if 0 < rate < 10 else f"{rate:,.0f}")
    return "".join(f"{one:>9}" for one in shown)


def _size(size_bytes: float) -> str:
    unit = "kB"
    for larger in ("MB", "GB", "TB"):
        if size_bytes < 1000 * 1024:
            break
        size_bytes, unit = size_bytes / 1024, larger
    return f"{size_bytes / 1024:,.4g} {unit}"


def _sources(found: "Overview", width: int) -> "list[Text]":
    """A heading and a line each; those that wait longest first."""
    from rich.text import Text

    from workers.overview import span

    if found.looked is None:
        return []
    rows = _ordered(found.looked)
    if not rows:
        return [Text("no sources; declare some: sluice apply FILE")]
    longest = max(len(row["source"]) for row in rows)
    name = min(max(longest, 6), max(width - 52, 10)) + 2
    lines = [
        Text(
            f"{'source':{name}}{'oldest':>8}{'unfinished':>12}{'retrying':>10}{'heard':>11}",
            style="bold",
        )
    ]
    for row in rows:
        oldest, heard = (
            "-" if row[key] is None else span(row[key]) for key in ("oldest_s", "heard_s")
        )
        marks = [word for word, is_so in (
            ("paused", row["paused_s"] is not None), ("silent", row["is_silent"]),
        ) if is_so]  # fmt: skip
        source = row["source"]
        source = source if len(source) < name - 1 else source[: name - 3] + "…"
        text = (
            f"{source:{name}}{oldest:>8}{row['events']:>12,}{row['retrying']:>10,}"
            f"{heard + ' ago' if heard != '-' else heard:>11}  {' '.join(marks)}"
        )
        lines.append(Text(text.rstrip()))
    return lines


def _ordered(looked: "Looked") -> list[dict[str, Any]]:
    return sorted(looked.sources, key=lambda row: (-(row["oldest_s"] or 0), row["source"]))
