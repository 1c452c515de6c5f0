"""
A few of the requests that were refused, kept for whoever has to find out why.

Without any claim (L2): nothing on the way of a real event reads them, waits for them or fails with
them. A refusal costs its request a look at two buckets; what is sampled lies in a short queue, and
one task diagnoses it in a thread of its own and writes it over a connection of its own. Whatever
does not work out is dropped, and counted.
"""

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from typing import NamedTuple

import msgspec
from starlette.types import Scope

from gateway.headers import storable_headers
from gateway.limiting import Network, address_of
from gateway.sources import Entrance, Sources
from shared import telemetry
from shared.db import Line, storable
from shared.domain.events import Headers, new_tracking_id
from shared.providers.base import Diagnosis, Provider, Suspect
from shared.sealing import KeyRing
from shared.store import refusals as store
from shared.store.refusals import KEPT_BYTES, Kept

log = logging.getLogger(__name__)

#: Of one source, and of all: so many at once, and so many a second afterwards.
OF_ONE = (5.0, 1.0)
OF_ALL = (10.0, 4.0)
#: What waits to be diagnosed. A body is held until then: 1 MiB at most.
WAITING = 16

_DIAGNOSE_WITHIN_S = 2.0
_WRITE_WITHIN_S = 2.0
_LOG_EVERY_S = 30.0
_MOST_SUSPECTS = 48

_encode = msgspec.json.Encoder().encode


class Refused(NamedTuple):
    """One refused request. `body` is None where it was not read, or is too large to be held."""

    entrance: Entrance
    kind: str
    code: str
    at: datetime
    headers: Headers
    body: bytes | None
    body_bytes: int | None
    scope: Scope
    trace_id: str


@dataclass(slots=True)
class _Bucket:
    """Tokens that come back with time, in the loop's clock."""

    size: float
    per_s: float
    left: float
    at: float

    def take(self, now: float) -> bool:
        self.left = min(self.size, self.left + (now - self.at) * self.per_s)
        self.at = now
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


class Refusals:
    """The samples of one process. Must be used in one event loop."""

    def __init__(
        self,
        url: str,
        sources: Sources,
        keys: KeyRing,
        tolerance_s: int,
        trusted: Sequence[Network] = (),
    ) -> None:
        self._line = Line(url, "gateway", name="sluice-gateway-refusals")
        self._sources = sources
        self._keys = keys
        self._tolerance_s = tolerance_s
        self._trusted = tuple(trusted)
        self._waiting: deque[Refused] = deque()
        self._has_some = asyncio.Event()
        self._of_one: dict[str, _Bucket] = {}
        self._of_all = _Bucket(*OF_ALL, left=OF_ALL[0], at=0.0)
        self._apart = ThreadPoolExecutor(1, "diagnosing")
        self._logged_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Keep samples from now on."""
        self._task = asyncio.create_task(self._keep_all(), name="refusals")

    async def close(self) -> None:
        """Stop; what waits is forgotten."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._line.close()
        self._apart.shutdown(wait=False, cancel_futures=True)

    def note(
        self,
        entrance: Entrance,
        kind: str,
        code: str,
        at: datetime,
        headers: Headers,
        body: bytes | None,
        body_bytes: int | None,
        scope: Scope,
        trace_id: str,
    ) -> None:
        """A request was refused. Never waits or raises, and mostly does nothing."""
        now = asyncio.get_running_loop().time()
        name = entrance.source.name
        bucket = self._of_one.get(name)
        if bucket is None:
            bucket = self._of_one[name] = _Bucket(*OF_ONE, left=OF_ONE[0], at=now)
        if len(self._waiting) >= WAITING or not (bucket.take(now) and self._of_all.take(now)):
            telemetry.refusal_dropped(name)
            return
        self._waiting.append(
            Refused(entrance, kind, code, at, headers, body, body_bytes, scope, trace_id)
        )
        self._has_some.set()

    async def _keep_all(self) -> None:
        while True:
            await self._has_some.wait()
            while self._waiting:
                one = self._waiting.popleft()
                try:
                    await self._keep(one)
                except Exception as error:  # whatever it is, nobody waits for it
                    telemetry.refusal_dropped(one.entrance.source.name)
                    self._complain(error)
            self._has_some.clear()

    async def _keep(self, one: Refused) -> None:
        found = await self._diagnosed(one)
        source, provider = one.entrance.source, one.entrance.provider
        secret = provider.secret_headers if provider is not None else frozenset()
        forwarded = ",".join(value for name, value in one.headers if name == "x-forwarded-for")
        kept = Kept(
            id=new_tracking_id(one.at, os.urandom(10)),
            source_id=source.id,
            refused_at=one.at,
            kind=one.kind,
            address=storable(address_of(one.scope, forwarded, self._trusted), 60),
            code=one.code,
            cause=found.cause,
            hint=storable(found.hint, 600),
            signed_at=found.signed_at,
            headers=_encode(storable_headers(one.headers, self._keys, secret)),
            body=None if one.body is None else one.body[:KEPT_BYTES],
            body_bytes=one.body_bytes,
            body_sha=None if one.body is None else sha256(one.body).digest(),
            trace_id=one.trace_id,
        )
        async with self._line.use(timeout_s=_WRITE_WITHIN_S) as conn:
            is_kept = await store.keep_refusal(conn, kept)
        if is_kept:
            telemetry.refusal_kept(source.name, found.cause)
        else:
            telemetry.refusal_dropped(source.name)

    async def _diagnosed(self, one: Refused) -> Diagnosis:
        provider = one.entrance.provider
        assert provider is not None  # without one, nothing is refused but told to come again
        try:
            suspects = await self._suspects(one)
            diagnosing = asyncio.get_running_loop().run_in_executor(
                self._apart, partial(_diagnose, one, provider, suspects, self._tolerance_s)
            )
            return await asyncio.wait_for(diagnosing, _DIAGNOSE_WITHIN_S)
        except Exception as error:  # an installed package's own diagnosis, or one that takes long
            self._complain(error)
            return Diagnosis("signature_mismatch", f"nothing could be found out: {one.code}")

    async def _suspects(self, one: Refused) -> list[Suspect]:
        """Secrets of ours that the sender may have used by mistake, the likeliest first."""
        own, names = one.entrance.source, self._sources.names
        retired = await self._retired()
        found = [
            Suspect(secret, f"this source's secret {label}, which was rotated out")
            for source, label, secret in retired
            if source == own.name
        ]
        now_open = {secret.label for secret in own.secrets_at(one.at)}
        found += [
            Suspect(secret.plaintext, f"this source's secret {secret.label}, which has ended")
            for secret in own.secrets
            if secret.label not in now_open
        ]
        if own.shadow is not None:
            shadow = "this source's shadow, which accepts nothing until it is promoted"
            found.append(Suspect(own.shadow.plaintext, shadow))
        for name in names:
            other = self._sources.known(name)
            if other is not None and name != own.name:
                found += [
                    Suspect(secret.plaintext, f"a secret of another source here, {name}")
                    for secret in other.source.secrets
                ]
        return found[:_MOST_SUSPECTS]

    async def _retired(self) -> list[tuple[str, str, str]]:
        try:
            async with self._line.use(timeout_s=_WRITE_WITHIN_S) as conn:
                return await store.read_retired(conn, self._keys)
        except Exception as error:
            self._complain(error)
            return []

    def _complain(self, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            log.warning("a refused request could not be kept", extra={"error": repr(error)})


def _diagnose(
    one: Refused, provider: Provider, suspects: Sequence[Suspect], tolerance_s: int
) -> Diagnosis:
    secrets = [secret.plaintext for secret in one.entrance.source.secrets_at(one.at)]
    return provider.diagnose(one.headers, one.body, secrets, suspects, one.at, tolerance_s)
