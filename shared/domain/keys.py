"""What tells one customer, object or record from another: never without source, account, mode."""

from typing import NamedTuple


class CustomerKey(NamedTuple):
    """A customer at a provider."""

    source_id: int
    account: str
    livemode: bool
    customer: str


class JointKey(NamedTuple):
    """An id, "kind/id", by which provider objects join: a payment intent, a charge, an invoice."""

    source_id: int
    account: str
    livemode: bool
    joint: str


class ObjectKey(NamedTuple):
    """A provider object."""

    source_id: int
    account: str
    livemode: bool
    kind: str
    object_id: str

    @property
    def name(self) -> str:
        """As other objects and people refer to it: "kind/id"."""
        return f"{self.kind}/{self.object_id}"


class RecordKey(NamedTuple):
    """A record that a source keeps; `record_id` is the source's own."""

    source_id: int
    account: str
    livemode: bool
    record_id: str

    @property
    def name(self) -> str:
        """As the trail and people refer to it."""
        return f"record/{self.record_id}"
