"""What operators do about messages: have them sent again under the same key, or let them be."""

from collections.abc import Sequence
from uuid import UUID

from shared.db import Conn
from shared.store import messages
from shared.store.messages import Ended
from workers.actions import new_action, record_action


class UnknownMessage(Exception):
    """There is no message of this number."""


class NotThat(Exception):
    """The message is not in a state in which this can be done. The text says in which it is."""


async def retry_messages(conn: Conn, wanted: Sequence[int], actor: str, reason: str) -> UUID:
    """
    Have dead, dropped and retrying messages sent again, due at once, in the caller's transaction.
    All of them, or none; returns the id of the audited action.

    Raises:
        UnknownMessage, NotThat: see there; the transaction must roll back.
    """
    reopened = await messages.reopen(conn, wanted)
    left = sorted(set(wanted) - {one.message for one in reopened})
    hurried = await messages.hurry(conn, left) if left else []
    for number in left:
        if number not in hurried:
            raise await _refusal(conn, number, "to be retried it is dead, dropped or retrying")
    action_id = new_action()
    await record_action(
        conn,
        action_id,
        "message.retried",
        actor,
        before={"ended": [_shown(one) for one in reopened]},
        after={"messages": sorted(wanted)},
        reason=reason,
    )
    return action_id


async def retry_dead(
    conn: Conn, handler: str, after: int, limit: int, actor: str, reason: str
) -> tuple[list[int], UUID | None]:
    """
    The same for up to `limit` dead messages of a handler, above the number `after`.

    Returns their numbers, in order, and the action's id; none, and None, where there are none.
    """
    dead = await messages.dead_of(conn, handler, after, limit)
    return dead, await retry_messages(conn, dead, actor, reason) if dead else None


async def drop_message(conn: Conn, number: int, actor: str, reason: str) -> UUID:
    """
    Say that a dead message is done with: it is not sent, and counted as dead no more.

    Raises:
        UnknownMessage, NotThat: see there; nothing was written.
    """
    dropped = await messages.drop_dead(conn, number)
    if dropped is None:
        raise await _refusal(conn, number, "only a dead one can be dropped")
    action_id = new_action()
    await record_action(
        conn,
        action_id,
        "message.dropped",
        actor,
        before=_shown(dropped),
        after={"message": number},
        reason=reason,
    )
    return action_id


async def _refusal(conn: Conn, number: int, needs: str) -> Exception:
    found = await messages.read_message(conn, number)
    if found is None:
        return UnknownMessage(f"no message {number}")
    return NotThat(f"message {number} is {found[0].state}: {needs}")


def _shown(ended: Ended) -> dict[str, object]:
    return {
        "message": ended.message,
        "handler": ended.handler,
        "outcome": ended.outcome,
        "code": ended.code,
        "attempts": ended.attempts,
    }
