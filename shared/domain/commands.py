"""
What an event asks for: the vocabulary between providers, which produce commands, and handlers,
which apply them.
"""

from typing import Literal

import msgspec

from shared.domain.states import ObjectState

#: How a snapshot bears on the state of its second (see `shared.domain.register`): an `edge` leads
#: from the state before to the state after, an `arrival` only arrives (the object was created),
#: a `point` says what the state was and no more.
Shape = Literal["edge", "arrival", "point"]


class Observe(msgspec.Struct, frozen=True):
    """An event carries a snapshot of a provider object."""

    kind: str
    object_id: str
    version: int  # in the provider's own clock and unit, only ever compared within one object
    shape: Shape
    before: ObjectState | None  # of an edge
    after: ObjectState


class Ignore(msgspec.Struct, frozen=True):
    """The event says nothing that this version applies. It is kept."""

    code: str


Command = Observe | Ignore
