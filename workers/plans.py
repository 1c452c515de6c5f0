"""Whether a plan of a replay may be carried out: only what still holds is what was shown."""

from uuid import UUID

from shared.db import Conn
from shared.store import replay_plans

#: How long a plan is good for.
GOOD_FOR_S = 3600

#: The kinds of the two jobs.
PLAN = "replay-plan"
REPLAY = "replay"

UNKNOWN_PLAN = "unknown_plan"
PLAN_UNFINISHED = "plan_unfinished"
PLAN_TOO_OLD = "plan_too_old"
PLAN_WAS_RUN = "plan_was_run"
PLAN_OVERTAKEN = "plan_overtaken"
#: Why a plan that is there is not carried out.
REFUSALS = frozenset({PLAN_UNFINISHED, PLAN_TOO_OLD, PLAN_WAS_RUN, PLAN_OVERTAKEN})

_ENDED_EARLY = frozenset({"failed", "cancelled"})


class PlanRefused(Exception):
    """The plan is not to be carried out. `code` is one of those above, the text says which."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


async def check_plan(conn: Conn, plan: UUID, job: UUID | None = None) -> int:
    """
    How many of the plan's events are still to be opened. `job` is the one that asks, where it is
    one.

    Who carries it out asks in a transaction that has locked the plan, and takes it there.

    Raises:
        PlanRefused: see there.
    """
    found = await replay_plans.read_standing(conn, plan)
    if found is None or found.kind != PLAN:
        raise PlanRefused(UNKNOWN_PLAN, f"no plan {plan}: sluice replay list")
    if found.state != "done" or found.age_s is None:
        raise PlanRefused(PLAN_UNFINISHED, f"plan {plan} is not made: its job is {found.state}")
    left = await replay_plans.count_to_open(conn, plan)
    if found.run_by is not None and (found.run_state not in _ENDED_EARLY and found.run_by != job):
        raise PlanRefused(PLAN_WAS_RUN, f"plan {plan} was run already, by job {found.run_by}")
    if not left:
        what = "has nothing that can be replayed"
        if found.run_by is not None:
            what = f"was run already, by job {found.run_by}: nothing of it is left"
        raise PlanRefused(PLAN_WAS_RUN, f"plan {plan} {what}")
    if found.age_s > GOOD_FOR_S:
        text = f"plan {plan} was made {found.age_s / 60:.0f} minutes ago: make another one"
        raise PlanRefused(PLAN_TOO_OLD, text)
    await _check_overtaken(conn, plan, found)
    return left


async def _check_overtaken(conn: Conn, plan: UUID, found: replay_plans.Standing) -> None:
    why = None
    if found.configuration != found.current:
        why = f"it was made by configuration {found.configuration}, and {found.current} holds"
    if why is None:
        moved = await replay_plans.find_moved(conn, plan)
        if moved is not None:
            why = f"event {moved} has a newer run, or is unfinished"
    if why is None:
        changed = await replay_plans.find_changed(conn, plan)
        if changed is not None:
            tenant, feature, at = changed
            why = f"{feature} of tenant {tenant} has changed, at {at:%H:%M:%S} UTC"
    if why is None:
        linked = await replay_plans.find_linked(conn, plan)
        if linked is not None:
            why = f"customer {linked} is somebody else's by now"
    if why is not None:
        raise PlanRefused(PLAN_OVERTAKEN, f"plan {plan} was overtaken: {why}. Make another one")
