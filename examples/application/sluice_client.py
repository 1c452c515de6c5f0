"""
What a tenant may use, asked of Sluice. Copy this file into your application.

    sluice = Sluice("https://sluice.internal:8400", token, ["sso", "seats"])
    if sluice.may("acme", "sso"): …
    seats = sluice.value("acme", "seats")

One object for the whole process, from any thread. Python 3.11 or newer, and nothing else.
"""

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException

log = logging.getLogger(__name__)

Value = int | float | bool | str | None
MOST_TENANTS = 10_000


@dataclass
class Known:
    """A tenant's features, each with its value and the unix time at which that changes."""

    features: Mapping[str, tuple[Value, float | None]]
    etag: str | None
    answered_at: float
    again_at: float


class Sluice:
    """
    Answers from memory for `fresh_s`, then asks again, for all of `features` at once (up to 100).

    While Sluice cannot be asked, what is known goes on for `stale_s` since it was answered, but no
    value beyond its end. After that, or for a tenant of whom nothing is known, `otherwise` has each
    feature's value; those that it does not name may not be used. It is tried every `retry_s`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        features: Sequence[str],
        *,
        fresh_s: float = 30,
        stale_s: float = 3600,
        otherwise: Mapping[str, Value] | None = None,
        timeout_s: float = 1,
        retry_s: float = 5,
    ) -> None:
        self._url, self._token, self._features = url.rstrip("/"), token, list(features)
        self._fresh_s, self._stale_s, self._timeout_s = fresh_s, stale_s, timeout_s
        self._otherwise, self._retry_s = dict(otherwise or {}), retry_s
        self._known: dict[str, Known] = {}
        self._away_until = 0.0
        self._writing = threading.Lock()

    def may(self, tenant: str, feature: str) -> bool:
        """Whether the tenant may use it at all: not if its value is false, 0, or nothing."""
        value = self.value(tenant, feature)
        return value is not None and value != 0  # False is 0, too

    def value(self, tenant: str, feature: str) -> Value:
        """How much: a number, "unlimited", true, a text; None if it may not be used."""
        if feature not in self._features:
            raise LookupError(f"{feature!r} is none of the features that are asked for")
        now = time.monotonic()
        known = self._known.get(tenant)
        if (known is None or now >= known.again_at) and now >= self._away_until:
            known = self._ask(tenant, known)
        if known is None or (self._is_away and now - known.answered_at > self._stale_s):
            return self._otherwise.get(feature)
        value, ends_at = known.features.get(feature, (None, None))
        if self._is_away and ends_at is not None and ends_at <= time.time():
            return self._otherwise.get(feature)
        return value

    def forget(self, tenant: str) -> None:
        """Ask again next time: the feed says that the tenant's entitlements changed."""
        if (known := self._known.get(tenant)) is not None:
            known.again_at = 0

    @property
    def _is_away(self) -> bool:
        return self._away_until > 0

    def _ask(self, tenant: str, known: Known | None) -> Known | None:
        request = urllib.request.Request(
            f"{self._url}/api/v1/entitlements/check",
            json.dumps({"tenant": tenant, "features": self._features}).encode(),
            {"authorization": f"Bearer {self._token}", "content-type": "application/json"},
        )
        if known is not None and known.etag is not None:
            request.add_header("if-none-match", known.etag)
        now = time.monotonic()
        if known is not None:
            known.again_at = now + self._timeout_s  # other threads go on with it meanwhile
        features: dict[str, tuple[Value, float | None]] = {}
        etag = None
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                etag = answer.headers.get("etag")
                for one in json.load(answer)["data"]["checks"]:
                    features[one["feature"]] = (one["value"], _unix(one["validUntil"]))
        except urllib.error.HTTPError as error:
            if error.code == 304 and known is not None:
                features, etag = dict(known.features), known.etag
            elif error.code != 404:  # another tenant's token: to it there is no such tenant
                return self._failed(known, error)
        except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
            return self._failed(known, error)
        left = [ends_at - time.time() for _, ends_at in features.values() if ends_at is not None]
        # An end that is over already: our clock is ahead of Sluice's.
        again_s = min([self._fresh_s, *(one if one > 0 else 1 for one in left)])
        known = Known(features, etag, now, now + again_s)
        with self._writing:
            self._away_until = 0
            if len(self._known) >= MOST_TENANTS:
                del self._known[next(iter(self._known))]
            self._known[tenant] = known
        return known

    def _failed(self, known: Known | None, error: Exception) -> Known | None:
        log.warning("Sluice cannot be asked: %s", error)
        self._away_until = time.monotonic() + self._retry_s
        if known is not None:
            known.again_at = self._away_until
        return known


def _unix(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
