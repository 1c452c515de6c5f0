"""What was observed of provider objects: insert-only, but for a replay, which replaces its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

from shared.db import Conn
from shared.domain.keys import ObjectKey
from shared.domain.register import Observation
from shared.domain.states import ObjectState, encode_state

_decode_state = msgspec.json.Decoder(ObjectState).decode


@dataclass(frozen=True, slots=True)
class NewObservation:
    """An observation to be written, of the object at `key`."""

    key: ObjectKey
    observation: Observation
    tracking_id: UUID


READ_OBSERVATIONS = """
SELECT object, observation, version, shape, before, after, state, ceiling, number, floor,
       tracking_id
FROM observations WHERE object = ANY($1::bigint[])
"""


async def read_observations(
    conn: Conn, objects: Sequence[int]
) -> dict[int, dict[str, tuple[UUID, Observation]]]:
    """By object, by observation id: which event it came with, and what it saw."""
    found: dict[int, dict[str, tuple[UUID, Observation]]] = {}
    for row in await conn.fetch(READ_OBSERVATIONS, list(objects)):
        (
            object_row, name, version, shape, before, after, state, ceiling, number, floor,
            tracking_id,
        ) = row.values()  # fmt: skip
        seen = Observation(
            name, version, shape, before, after, _decode_state(state), ceiling, number, floor
        )
        found.setdefault(object_row, {})[name] = (tracking_id, seen)
    return found


FORGET_OBSERVATIONS = "DELETE FROM observations WHERE tracking_id = ANY($1::uuid[])"


async def forget_observations(conn: Conn, tracking_ids: Sequence[UUID]) -> None:
    """Remove what earlier runs of these events observed: a replay replaces its own."""
    await conn.execute(FORGET_OBSERVATIONS, list(tracking_ids))


OBSERVATION_COLUMNS = (
    "object", "observation", "version", "shape", "before", "after", "state", "ceiling", "number",
    "floor", "tracking_id",
)  # fmt: skip


async def add_observations(
    conn: Conn, new: Sequence[NewObservation], ids: Mapping[ObjectKey, int]
) -> None:
    """Insert observations of objects that have their ids."""
    rows = [
        (
            ids[one.key],
            one.observation.id,
            one.observation.version,
            one.observation.shape,
            one.observation.before,
            one.observation.after,
            encode_state(one.observation.state).decode(),
            one.observation.ceiling,
            one.observation.number,
            one.observation.floor,
            one.tracking_id,
        )
        for one in new
    ]
    await conn.copy_records_to_table("observations", records=rows, columns=OBSERVATION_COLUMNS)
