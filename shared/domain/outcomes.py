"""How a run of an event ends, and when a failed one is tried again."""

from dataclasses import dataclass
from typing import Literal, get_args

Outcome = Literal["applied", "unchanged", "superseded", "parked", "ignored", "dead"]

#: The most that can happen first.
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

#: Codes of dead and ignored runs; the same word in the database, the logs and the runbook.
UNREADABLE = "unreadable"
BODY_GONE = "body_gone"
QUARANTINED = "older_than_ledger"
MODE_MISMATCH = "mode_mismatch"
ATTEMPTS_EXHAUSTED = "attempts_exhausted"
PROCESS_DIED = "process_died"
NO_HANDLER = "no_handler"
IGNORED_BY_OPERATOR = "ignored_by_operator"
NOT_FOR_HANDLER = "not_for_handler"
HANDLER_TIMEOUT = "handler_timeout"
#: Why an order was refused.
UNKNOWN_ORDER = "unknown_order"
UNKNOWN_SOURCE = "unknown_source"
UNKNOWN_JOB = "unknown_job"
NOT_COVERED = "not_covered"
SECRET_MOVED_ON = "secret_moved_on"  # noqa: S105 - a code
#: Why an event of a plan is not applied again: what it was received as went by retention; it has a
#: run that is not settled; its id is nobody's; it is an order; since it was frozen it moved on.
BODY_EXPIRED = "body_expired"
UNFINISHED = "unfinished"
UNKNOWN_EVENT = "unknown_event"
IS_AN_ORDER = "order"
OVERTAKEN = "overtaken"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter: `base_s`, doubled per attempt, at most `cap_s`."""

    max_attempts: int = 12
    base_s: float = 2.0
    cap_s: float = 3600.0

    def delay_s(self, failed_attempts: int, random: float) -> float:
        """How long to wait after so many failed attempts (>= 1); `random` is in [0, 1)."""
        full: float = min(self.cap_s, self.base_s * 2 ** min(failed_attempts - 1, 40))
        return full * (0.5 + random / 2)

    def is_exhausted(self, failed_attempts: int) -> bool:
        """Whether there is no further attempt."""
        return failed_attempts >= self.max_attempts


def status_of(outcome: Outcome) -> str:
    """The status that a run with this outcome is settled with."""
    return outcome if outcome in ("ignored", "dead") else "processed"
