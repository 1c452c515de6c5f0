"""
What an event asks for: the vocabulary between providers, which produce commands, and handlers,
which apply them.
"""

from typing import Any, Literal
from uuid import UUID

import msgspec

from shared.domain.states import ObjectState

#: How a snapshot bears on the state of its second (see `shared.domain.register`): an `edge` leads
#: from the state before to the state after, an `arrival` only arrives (the object was created),
#: a `point` says what the state was and no more. A `fetch` is what the provider answered when it
#: was asked. A `hint` says that the object changed, and nothing of its state.
Shape = Literal["edge", "arrival", "point", "fetch", "hint"]


class Observe(msgspec.Struct, frozen=True):
    """
    An event carries a snapshot of a provider object, or the answer to a fetch of it.

    `version` is in the provider's own clock, only ever compared within one object: unix seconds
    for Stripe, unix microseconds for every other provider. A fetch contains all that happened up
    to `version`, and nothing from after `ceiling`; `number` was taken before it was asked for.
    Where the version is when the object changed, `floor` is up to when the fetch knows it. A
    hint's state is `UNOBSERVED`.
    """

    kind: str
    object_id: str
    version: int
    shape: Shape
    before: ObjectState | None  # of an edge
    after: ObjectState
    ceiling: int | None = None  # of a fetch
    number: int | None = None  # of a fetch
    floor: int | None = None  # of a fetch


class ImportRecord(msgspec.Struct, frozen=True):
    """
    An event carries a version of a record that is kept for its tenant and grants nothing.

    `record_id` is the source's own; `version` unix microseconds, only ever compared within one
    record. `normalised` is JSON, one text for each value; `raw` the part of the event's body that
    it was read from, or None: all of it, which the inbox has.
    """

    record_id: str
    version: int
    tenant: str | None
    normalised: str
    raw: str | None = None


class ImportResults(msgspec.Struct, frozen=True):
    """
    Rows were pushed to a source: the event's whole body, to be imported by a job of its own.

    The job has the event's tracking id and its run.
    """


class Ignore(msgspec.Struct, frozen=True):
    """The event says nothing that this version applies. It is kept."""

    code: str


class Extension(msgspec.Struct, frozen=True):
    """Base of the commands that installed packages define. One handler applies each kind."""


class Bring(msgspec.Struct, frozen=True):
    """
    What a handler listens to has happened: the event `tracking_id`, or, where an entitlement
    changed, what the audit record `record` tells of.
    """

    handler: str
    tracking_id: UUID | None = None
    record: int | None = None


class ReprocessRecord(msgspec.Struct, frozen=True, tag_field="do", tag="reprocess-record"):
    """Read the version of a record that counts again, by today's mapping."""

    source: str
    account: str
    livemode: bool
    record_id: str


class StartJob(msgspec.Struct, frozen=True, tag_field="do", tag="start-job"):
    """Begin a job of that kind; it gets the order's tracking id. `arguments` are the kind's own."""

    kind: str
    arguments: dict[str, Any]
    tenant: str | None = None
    source: str | None = None


class CancelJob(msgspec.Struct, frozen=True, tag_field="do", tag="cancel-job"):
    """End a job before its time; what it has done stays."""

    job: UUID


class PauseJob(msgspec.Struct, frozen=True, tag_field="do", tag="pause-job"):
    """Take no further step of a job until it is resumed."""

    job: UUID


class ResumeJob(msgspec.Struct, frozen=True, tag_field="do", tag="resume-job"):
    """Go on with a job where it was paused."""

    job: UUID


class PauseSource(msgspec.Struct, frozen=True, tag_field="do", tag="pause-source"):
    """Receive and store the source's events, and apply none."""

    source: str


class ResumeSource(msgspec.Struct, frozen=True, tag_field="do", tag="resume-source"):
    """Apply the source's events again, those that waited first."""

    source: str


class RotateSecret(msgspec.Struct, frozen=True, tag_field="do", tag="rotate-secret"):
    """
    Put a new secret into a source's free `slot`. The one in the slot `replaces`, of the version
    `replaces_version`, opens nothing any more after `overlap_s`.

    The new one is sealed already, for this place: a plaintext is in no event. `version` is the one
    after the newest that any secret of the source had: of two rotations that were asked for at
    once, the second is refused.
    """

    source: str
    slot: int
    version: int
    key_id: str
    nonce: bytes
    ciphertext: bytes
    overlap_s: int
    replaces: int
    replaces_version: int


Order = (
    ReprocessRecord
    | StartJob
    | CancelJob
    | PauseJob
    | ResumeJob
    | PauseSource
    | ResumeSource
    | RotateSecret
)


class Ordered(msgspec.Struct, frozen=True):
    """
    What an operator, or an application, asked for over the API: the body of an event of the source
    `operator`.

    `actor` is "token:NAME". `tenant` is the one that the token is for; None: it may do it to all.
    """

    actor: str
    order: Order
    tenant: str | None = None
    reason: str | None = None


Command = Observe | ImportRecord | ImportResults | Ignore | Extension | Bring | Ordered
