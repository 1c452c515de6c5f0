"""A secret, or a scheme, that is tried beside the real ones: counted, and accepting nothing."""

import logging
import threading
from collections.abc import Mapping
from datetime import datetime

from shared import telemetry
from shared.domain.events import Headers
from shared.providers import providers
from shared.providers.base import Configured, Provider, SignatureError
from shared.store.sources import Source

log = logging.getLogger(__name__)

#: (both accept, only the real ones, only the shadow, both refuse)
Counts = tuple[int, int, int, int]
_WORDS = ("both_accept", "only_real", "only_shadow", "both_refuse")


class Shadow:
    """One source's. Large bodies are checked by threads: its counts are theirs as well."""

    def __init__(
        self,
        source: Source,
        provider: Provider,
        configured: Configured,
        version: int,
        secret: str,
    ) -> None:
        self.source_id = source.id
        self.version = version
        self.configured = configured
        self._name = source.name
        self._provider = provider
        self._secrets = (secret,)
        self._counts = [0, 0, 0, 0]
        self._accepted_at: datetime | None = None
        self._lock = threading.Lock()

    def check(
        self, headers: Headers, body: bytes, now: datetime, tolerance_s: int, *, is_accepted: bool
    ) -> None:
        """Count what it says of a request that the real secrets accept, or not. Never raises."""
        try:
            self._provider.verify(headers, body, self._secrets, now, tolerance_s)
            is_ours = True
        except SignatureError:
            is_ours = False
        except Exception:
            log.exception("a shadow failed at a request", extra={"source": self._name})
            is_ours = False
        index = (not is_accepted) * 2 + (not is_ours)
        telemetry.shadowed(self._name, _WORDS[index])
        with self._lock:
            self._counts[index] += 1
            if is_ours:
                self._accepted_at = now

    def take(self) -> tuple[Counts, datetime | None]:
        """What was counted since it was last taken."""
        with self._lock:
            taken, self._counts = self._counts, [0, 0, 0, 0]
            return (taken[0], taken[1], taken[2], taken[3]), self._accepted_at

    def give_back(self, counts: Counts) -> None:
        """What was taken could not be written."""
        with self._lock:
            self._counts = [one + more for one, more in zip(self._counts, counts, strict=True)]


def shadow_of(source: Source, before: Shadow | None) -> Shadow | None:
    """
    The source's shadow; the same one as `before`, with its counts, where neither it nor what it
    takes from its source did change. The counts of one that did are written down beside its own.
    """
    wanted = source.shadow
    if wanted is None:
        return None
    provider = providers().get(wanted.provider or source.provider)
    if provider is None:
        log.error("a shadow's provider is not installed", extra={"source": source.name})
        return None
    settings: Mapping[str, object] = source.settings
    if wanted.provider is not None or wanted.signature is not None:
        tables = {**settings, "signature": dict(wanted.signature or {})}
        if not wanted.signature:
            del tables["signature"]
        settings = tables
    configured = Configured(settings, source.livemode, source.tenant)
    if before is not None and (
        (before.source_id, before.version, before.configured)
        == (source.id, wanted.version, configured)
    ):
        return before
    try:
        bound = provider.for_source(configured)
    except Exception as error:
        log.error("a shadow cannot be read", extra={"source": source.name, "error": repr(error)})
        return None
    return Shadow(source, bound, configured, wanted.version, wanted.plaintext)
