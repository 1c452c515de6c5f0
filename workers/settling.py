"""The ends of the spine: what an event asks for, and the records that its run leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec.structs import replace

from shared.db import Conn, Row
from shared.domain.audit import Draft, content_of
from shared.domain.commands import Command, ImportResults
from shared.domain.events import IMPORT, Arrival, Headers, Identity, StoredEvent, problem_with
from shared.domain.outcomes import (
    BODY_GONE,
    MODE_MISMATCH,
    OUTCOMES,
    QUARANTINED,
    UNREADABLE,
    Outcome,
    status_of,
)
from shared.providers.base import PayloadError, Provider
from shared.store import audit, work
from shared.store.ledger import read_horizon
from shared.store.work import LaneLock, Settlement
from workers.entries import Answer, FeatureChange, Told
from workers.handlers import Done
from workers.surroundings import Surroundings

_decode_headers = msgspec.json.Decoder(Headers).decode


@dataclass(frozen=True, slots=True)
class Refused:
    """An event that is settled without a command: `ignored` or `dead`, and why."""

    event: StoredEvent
    outcome: Outcome
    code: str
    error: str | None = None
    changes: Sequence[FeatureChange] = ()  # by what an earlier run did, and this one took back
    told: Sequence[Told] = ()


class TranslationFailed(Exception):
    """What a provider raised, or gave, that says nothing of the platform. `code` is for lists."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


async def read_commands(
    conn: Conn, surroundings: Surroundings, events: Sequence[StoredEvent]
) -> tuple[list[tuple[StoredEvent, Sequence[Command]]], list[Refused]]:
    """See `translate`."""
    headers = await headers_of(conn, surroundings, events)
    return translate(surroundings, events, headers, await read_horizon(conn))


def translate(
    surroundings: Surroundings,
    events: Sequence[StoredEvent],
    headers: Mapping[UUID, Headers],
    pruned_before: datetime | None,
) -> tuple[list[tuple[StoredEvent, Sequence[Command]]], list[Refused]]:
    """
    Read what the events ask for; `headers` are theirs whose provider reads them.

    Raises:
        UnknownSource: an event's source is not configured here (yet).
        TranslationFailed: its provider cannot say what one of the events asks for.
    """
    asked: list[tuple[StoredEvent, Sequence[Command]]] = []
    refused: list[Refused] = []
    for event in events:
        provider = surroundings.provider(event.source_id)
        livemode = surroundings.source(event.source_id).livemode
        if event.unreadable is not None and event.run == 1:
            refused.append(Refused(event, "dead", UNREADABLE, event.unreadable))
        elif _is_of_other_mode(event, provider, livemode):
            refused.append(Refused(event, "ignored", MODE_MISMATCH))
        elif _may_be_forgotten(event, pruned_before):
            refused.append(Refused(event, "dead", QUARANTINED))
        elif event.event_type == IMPORT:
            # Whoever pushes; its body is read by a job, and may be too large for anybody else.
            asked.append((event, (ImportResults(),)))
        else:
            try:
                carried = headers.get(event.tracking_id, ())
                asked.append((event, _commands_of(provider, event, carried)))
            except PayloadError as error:
                refused.append(Refused(event, "dead", UNREADABLE, str(error)))
    return asked, refused


def _is_of_other_mode(event: StoredEvent, provider: Provider, livemode: bool | None) -> bool:
    # Of what receipt could not read, nothing was known: not its mode either.
    is_known = event.unreadable is None and provider.has_livemode
    return is_known and livemode is not None and event.livemode != livemode


def _identified(provider: Provider, event: StoredEvent, headers: Headers) -> Identity:
    """
    Who an event is that receipt could not read: what it could not be read by may be mended.

    Raises:
        PayloadError: it still cannot, or it is not what it was stored as.
    """
    identity = provider.identify(headers, event.body)
    problem = problem_with(identity)
    if problem is not None:
        raise PayloadError(problem)
    if (identity.account, identity.livemode) != (event.account, event.livemode):
        raise PayloadError("it is kept under another account or mode; have it sent again")
    return identity


def _commands_of(provider: Provider, event: StoredEvent, headers: Headers) -> Sequence[Command]:
    if event.artifact is not None:
        raise PayloadError("its body lies in the artifact store, where only imports are read from")
    try:
        identity = event.identity
        if event.unreadable is not None:
            identity = _identified(provider, event, headers)
        arrival = Arrival(identity, event.body, headers, event.received_at)
        commands = tuple(provider.translate(arrival))
    except PayloadError:
        raise
    except Exception as error:
        # A function of its argument, which reaches nobody: an EOFError of a cut off archive, say,
        # must not look like Postgres's, or the lane would wait for that to be mended for ever.
        raise TranslationFailed(type(error).__name__, str(error) or repr(error)) from error
    for command in commands:
        if not isinstance(command, Command):
            raise TranslationFailed("bad_result", f"translate() gave {command!r:.200}")
    if not commands:
        raise TranslationFailed("bad_result", "translate() gave no command; Ignore says that")
    return commands


async def headers_of(
    conn: Conn, surroundings: Surroundings, events: Sequence[StoredEvent]
) -> dict[UUID, Headers]:
    """
    By tracking id, the headers of those events whose provider reads them, or has to identify
    them; mostly of none.
    """
    wanted = [
        event
        for event in events
        if event.unreadable is not None or surroundings.provider(event.source_id).reads_headers
    ]
    if not wanted:
        return {}
    stored = await work.read_headers(conn, wanted)
    return {tracking_id: _decode_headers(encoded) for tracking_id, encoded in stored.items()}


def _may_be_forgotten(event: StoredEvent, pruned_before: datetime | None) -> bool:
    """Whether the ledger may have known this event once, and been pruned since."""
    return (
        pruned_before is not None
        and event.occurred_at is not None
        and event.occurred_at < pruned_before
        and event.actor is None  # an operator may know better
    )


async def settle(
    conn: Conn,
    surroundings: Surroundings,
    held: LaneLock,
    done: Sequence[Done],
    refused: Sequence[Refused],
    lost: Sequence[Row],
) -> list[Settlement]:
    """Write the audit records and the settlements of a batch, and delete its work."""
    drafts, settled = conclude(surroundings, held, done, refused)
    for row in lost:
        # The body went by retention before this run: there is nothing to read any more.
        drafts.append(_step_zero(held, str(row["tracking_id"]), row["run"], "dead", BODY_GONE))
        settled.append(_settlement_of_lost(row))
    await audit.append(conn, drafts, now=held.now, xid=held.xid)
    await work.settle(conn, settled)
    return settled


def conclude(
    surroundings: Surroundings, held: LaneLock, done: Sequence[Done], refused: Sequence[Refused]
) -> tuple[list[Draft], list[Settlement]]:
    """How the runs of a batch end, and what the trail is told of them. Writes nothing."""
    drafts: list[Draft] = []
    settled: list[Settlement] = []
    for one in done:
        tenant, outcome, code = _summary(one.answers)
        drafts += _records(surroundings, held, one.event, one.answers, tenant, outcome, code)
        settled.append(
            _settlement(one.event, outcome, code, None, tenant or _concerned(one.answers))
        )
    for refusal in refused:
        changes, told = list(refusal.changes), list(refusal.told)
        answers = (Answer(refusal.outcome, None, "", refusal.code, changes, 0, told),)
        drafts += _records(
            surroundings, held, refusal.event, answers, None, refusal.outcome, refusal.code
        )
        settled.append(
            _settlement(refusal.event, refusal.outcome, refusal.code, refusal.error, None)
        )
    return drafts, settled


async def bury(
    conn: Conn,
    surroundings: Surroundings,
    held: LaneLock,
    event: StoredEvent,
    code: str,
    error: str,
) -> None:
    """Settle an event dead after its last attempt."""
    # The attempt that was its last is in the row by now, and counts.
    await settle(conn, surroundings, held, (), (Refused(event, "dead", code, error),), ())


def _summary(answers: Sequence[Answer]) -> tuple[str | None, Outcome, str | None]:
    """The event's tenant, its outcome (the most that any of its commands did) and its code."""
    best = min(answers, key=lambda answer: OUTCOMES.index(answer.outcome))
    tenant = next((answer.tenant for answer in answers if answer.tenant is not None), None)
    return tenant, best.outcome, best.code


def _concerned(answers: Sequence[Answer]) -> str | None:
    return next((answer.concerns for answer in answers if answer.concerns is not None), None)


def _records(
    surroundings: Surroundings,
    held: LaneLock,
    event: StoredEvent,
    answers: Sequence[Answer],
    tenant: str | None,
    outcome: Outcome,
    code: str | None,
) -> list[Draft]:
    source = surroundings.source(event.source_id)
    catalog_version = max(answer.catalog_version for answer in answers)
    subject = next((answer.subject for answer in answers if answer.subject), event.subject)
    said = event.reason or next((answer.reason for answer in answers if answer.reason), None)
    # Of what somebody ordered and could not be done, both are wanted: why, and why not.
    reason = f"{code}: {said}" if said and code and event.reason is None else said or code
    actor = next((answer.actor for answer in answers if answer.actor), None)
    first = Draft(
        chain=f"tenant:{tenant}" if tenant is not None else f"lane:{held.lane}",
        cause="event",
        cause_id=str(event.tracking_id),
        run=event.run,
        tenant=tenant or _concerned(answers) or "",
        step=0,
        action=f"event.{outcome}",
        actor=event.actor or actor or f"provider:{source.provider}",
        source=source.name,
        subject=subject,
        catalog_version=catalog_version,
        reason=reason.encode() if reason else None,
    )
    drafts = [first]
    for answer in answers:
        if answer.changes:
            like = _spoken_by(answer, first, answer.subject)
            drafts += changes_to_drafts(answer.changes, first_step=len(drafts), draft=like)
    for answer in answers:
        for one in answer.told:
            like = _spoken_by(answer, first, one.subject)
            if one.source:
                like = replace(like, source=one.source)
            told = _step(like, len(drafts), one.tenant, one.action, one.before, one.after)
            drafts.append(told)
    return drafts


def _spoken_by(answer: Answer, first: Draft, subject: str) -> Draft:
    return replace(first, subject=subject, catalog_version=answer.catalog_version)


def changes_to_drafts(
    changes: Sequence[FeatureChange], *, first_step: int, draft: Draft
) -> list[Draft]:
    """Records of feature changes, caused by what `draft` says."""
    return [
        _step(
            draft,
            step,
            change.tenant,
            change.action,
            content_of(change.before),
            content_of(change.after),
            change.feature,
        )
        for step, change in enumerate(changes, start=first_step)
    ]


def _step(
    like: Draft,
    step: int,
    tenant: str,
    action: str,
    before: bytes | None,
    after: bytes | None,
    feature: str = "",
) -> Draft:
    """A record of the same cause, in a tenant's chain; without a tenant, in its own."""
    return replace(
        like,
        chain=f"tenant:{tenant}" if tenant else like.chain,
        tenant=tenant,
        step=step,
        action=action,
        feature=feature,
        before=before,
        after=after,
        reason=None,
    )


def _step_zero(held: LaneLock, cause_id: str, run: int, outcome: str, code: str) -> Draft:
    return Draft(
        chain=f"lane:{held.lane}",
        cause="event",
        cause_id=cause_id,
        run=run,
        tenant="",
        step=0,
        action=f"event.{outcome}",
        actor="system:worker",
        reason=code.encode(),
    )


def _settlement(
    event: StoredEvent, outcome: Outcome, code: str | None, error: str | None, tenant: str | None
) -> Settlement:
    return Settlement(
        work_id=event.work_id,
        tracking_id=event.tracking_id,
        run=event.run,
        source_id=event.source_id,
        status=status_of(outcome),
        outcome=outcome,
        code=code,
        error=error,
        tenant=tenant,
        attempts=event.attempts + 1,
    )


def _settlement_of_lost(row: Row) -> Settlement:
    return Settlement(
        row["id"], row["tracking_id"], row["run"], 0, "dead", "dead", BODY_GONE, None, None,
        row["attempts"] + 1,
    )  # fmt: skip
