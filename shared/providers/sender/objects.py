"""`[sources.NAME.mapping.object]`: what of an event is a snapshot of an object that grants."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shared.domain.commands import Observe
from shared.domain.standings import ACCESS, Standing
from shared.domain.states import (
    CUSTOMER_KIND,
    ORDER_KIND,
    SUBSCRIPTION_KIND,
    Item,
    ObjectState,
)
from shared.providers.base import ConfigurationError
from shared.providers.sender.tables import Path, read_table
from shared.providers.sender.values import Document, Wanted, version_in

_STANDINGS = {standing.value: standing for standing in Standing}
_TIMES = ("ends_at", "started_at", "past_due_at", "lapses_at", "period_ends_at")
_OF_CUSTOMERS = frozenset({"kind", "id", "status", "statuses", "version", "tenant"})
_OF_THE_OTHERS = _OF_CUSTOMERS | {"customer", "products", "quantity", *_TIMES}
_KINDS = {
    SUBSCRIPTION_KIND: _OF_THE_OTHERS,
    ORDER_KIND: _OF_THE_OTHERS,
    CUSTOMER_KIND: _OF_CUSTOMERS,
}
_MOST_PRODUCTS = 1000
_LARGEST_QUANTITY = 2**31 - 1


class ObjectMapping:
    """
    The table at `path`. `tenant` is the source's, for objects that are not said to name one.

    Raises:
        ConfigurationError: it says something that is not understood.
    """

    def __init__(self, table: object, path: Path, tenant: str | None) -> None:
        if not isinstance(table, dict):
            raise ConfigurationError(path, "must be a table")
        kind = table.get("kind")
        if not isinstance(kind, str) or kind not in _KINDS:
            known = ", ".join(f'"{one}"' for one in _KINDS)
            raise ConfigurationError((*path, "kind"), f"must be one of {known}")
        read_table(table, path, sorted(_KINDS[kind]), f"a {kind}")
        self.kind = kind
        self._source_tenant = tenant
        self._id = Wanted(table, "id", path)
        self._status = Wanted.optional(table, "status", path)
        if self._status is None and kind != CUSTOMER_KIND:
            raise ConfigurationError((*path, "status"), "is missing")
        self._statuses = _statuses(table, (*path, "statuses"))
        self._version = Wanted.optional(table, "version", path)
        self._customer = Wanted.optional(table, "customer", path)
        self._tenant = Wanted.optional(table, "tenant", path)
        # What has no products gives nothing, and nothing would say so.
        self._products = Wanted(table, "products", path) if kind != CUSTOMER_KIND else None
        self._quantity = Wanted.optional(table, "quantity", path)
        self._times = {key: Wanted(table, key, path) for key in _TIMES if key in table}

    def read(self, document: Document, occurred_at: datetime | None) -> Observe:
        """
        What an event says of its object.

        Raises:
            PayloadError: something that is needed is not there, or not what it has to be.
        """
        object_id = self._id.needed_text_in(document)
        status = self._status_in(document)
        if self.kind == CUSTOMER_KIND:
            customer: str | None = object_id
        else:
            customer = self._customer.text_in(document) if self._customer is not None else None
        tenant = self._source_tenant
        if self._tenant is not None:
            tenant = self._tenant.text_in(document)
        times = {key: wanted.seconds_in(document) for key, wanted in self._times.items()}
        state = ObjectState(
            status=status,
            customer=customer,
            tenant=tenant,
            items=self._items_in(document, status),
            ends_at=times.get("ends_at"),
            started_at=times.get("started_at"),
            past_due_at=times.get("past_due_at"),
            lapses_at=times.get("lapses_at"),
            period_ends_at=times.get("period_ends_at"),
        )
        version = version_in(self._version, document, occurred_at, self._id)
        return Observe(self.kind, object_id, version, "point", None, state)

    def _status_in(self, document: Document) -> str:
        if self._status is None:
            return Standing.PRESENT.value
        word = self._status.word_in(document)
        # A word that nobody knows is kept: its object waits, and is listed with it.
        return self._statuses.get(word, word)

    def _items_in(self, document: Document, status: str) -> tuple[Item, ...]:
        if self._products is None:
            return ()
        found = self._products.find(document)
        products = found if isinstance(found, list) else [found]
        items = [
            self._item(self._products, one, document)
            for one in products[: _MOST_PRODUCTS + 1]
            if one is not None and one != ""
        ]
        if len(items) > _MOST_PRODUCTS:
            raise self._products.wrong(f"found more than {_MOST_PRODUCTS} products")
        standing = _STANDINGS.get(status)
        if not items and standing is not None and ACCESS[standing] != "none":
            raise self._products.wrong(f"found nothing, and its status {status!r} gives access")
        # In one order, so that equal lists are equal.
        return tuple(sorted(items, key=lambda item: (item.refs, item.quantity)))

    def _item(self, products: Wanted, one: Any, document: Document) -> Item:
        if not isinstance(one, dict):
            ref = products.checked_text(one)
            if self._quantity is None:
                return Item((ref,))
            return Item((ref,), _quantity(self._quantity, self._quantity.find(document)))
        if not {"ref"} <= one.keys() <= {"ref", "quantity"}:
            raise products.wrong("a product is a text, or has `ref` and, if it likes, `quantity`")
        quantity = 1
        if "quantity" in one:
            quantity = _quantity(products, one["quantity"])
        elif self._quantity is not None:
            quantity = _quantity(self._quantity, self._quantity.find(document))
        return Item((products.checked_text(one["ref"]),), quantity)


def _quantity(wanted: Wanted, found: Any) -> int:
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    if is_number and 0 <= found <= _LARGEST_QUANTITY and found == int(found):
        return int(found)
    raise wanted.wrong(f"a quantity is a whole number from 0 to {_LARGEST_QUANTITY}")


def _statuses(table: Mapping[str, Any], path: Path) -> dict[str, str]:
    declared = table.get("statuses", {})
    if not isinstance(declared, dict):
        raise ConfigurationError(path, 'must be a table, like { live = "active" }')
    if declared and "status" not in table:
        raise ConfigurationError(path, "without `status` nothing is looked up in it")
    for word, standing in declared.items():
        if not isinstance(standing, str) or standing not in _STANDINGS:
            known = ", ".join(_STANDINGS)
            raise ConfigurationError((*path, word), f"{standing!r} is none of {known}")
    return dict(declared)
