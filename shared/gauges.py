"""
What is measured by looking: each gauge is read from whoever knows, when somebody asks.

By the value of its label, or by a tuple of values where it has several.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

_meter = metrics.get_meter("sluice")


class Gauge:
    """
    Read from who knows, when somebody asks.

    The callback is called in the exporter's thread: it must return what is known and ask nobody.
    """

    def __init__(self, name: str, description: str, *labels: str, unit: str = "") -> None:
        self._labels = labels
        self._callback: Callable[[], Mapping[Any, float]] | None = None
        _meter.create_observable_gauge(name, [self._read], unit=unit, description=description)

    def read_from(self, callback: Callable[[], Mapping[Any, float]]) -> None:
        """By the label's value; by a tuple of them where there are several."""
        self._callback = callback

    def _read(self, _: CallbackOptions) -> Iterable[Observation]:
        found = self._callback() if self._callback else {}
        return [
            Observation(
                value,
                dict(zip(self._labels, key if isinstance(key, tuple) else (key,), strict=True)),
            )
            for key, value in found.items()
        ]


oldest_unfinished = Gauge(
    "sluice_oldest_unfinished",
    "Age of the oldest event that is due and not settled. Paused sources have none.",
    "source",
    unit="s",
)
source_paused = Gauge(
    "sluice_source_paused", "Since the source was paused; only while it is.", "source", unit="s"
)
source_silent = Gauge(
    "sluice_source_silent",
    "Since the source was heard; only while it has been silent for longer than ever before.",
    "source",
    unit="s",
)
objects_parked = Gauge(
    "sluice_objects_parked",
    "Objects that give nothing until somebody links, maps or fetches something.",
    "source",
    "needs",
)
objects_wanting = Gauge("sluice_objects_wanting", "Objects that want to be fetched.", "source")
reconciliation_age = Gauge(
    "sluice_reconciliation_age",
    "Since a provider's customers were all looked at.",
    "source",
    unit="s",
)
pull_age = Gauge(
    "sluice_pull_age",
    "Since a provider's events were all looked at, or its objects all compared.",
    "source",
    "what",
    unit="s",
)
handler_lag = Gauge(
    "sluice_handler_lag",
    "Age of the first audit record that a handler's follower has not passed.",
    "handler",
    unit="s",
)
outbox_unsent = Gauge("sluice_outbox_unsent", "Messages that are neither sent nor dead.", "handler")
outbox_oldest_unsent = Gauge(
    "sluice_outbox_oldest_unsent",
    "Age of the oldest message that is neither sent nor dead.",
    "handler",
    unit="s",
)
outbox_dead = Gauge(
    "sluice_outbox_dead", "Dead messages that nobody has retried or dropped.", "handler"
)
feed_followers = Gauge("sluice_feed_followers", "Who follows the feed in this process.")
feed_held = Gauge(
    "sluice_feed_held",
    "Age of the oldest audit record that followers cannot be shown yet.",
    unit="s",
)
jobs = Gauge("sluice_jobs", "Jobs that are not over, by state.", "kind", "state")
jobs_oldest_waiting = Gauge(
    "sluice_jobs_oldest_waiting",
    "Since the job was due that has waited longest for its next step.",
    "kind",
    unit="s",
)
audit_unsigned = Gauge(
    "sluice_audit_unsigned",
    "Age of the oldest audit record that no checkpoint covers; none where none are to be written.",
    unit="s",
)
pruned = Gauge(
    "sluice_pruned", "What this process has forgotten because its time was over.", "class"
)
build_info = Gauge("sluice_build_info", "Always 1; the labels say what runs.", "process", "version")
