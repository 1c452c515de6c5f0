"""The providers this process knows: the built-in ones, and those of installed packages."""

import logging
from functools import cache

from shared.installed import PROVIDERS_GROUP, installed
from shared.providers.base import Provider
from shared.providers.clerk import Clerk
from shared.providers.own import Own
from shared.providers.polar import Polar
from shared.providers.sender import SENDERS
from shared.providers.stripe import Stripe

log = logging.getLogger(__name__)

BUILT_IN: tuple[Provider, ...] = (Stripe(), Polar(), Clerk(), *SENDERS)

#: Of the events that Sluice makes itself. Not in the registry: nothing can be declared with it.
OWN = Own()


@cache
def providers() -> dict[str, Provider]:
    """
    By name. An installed package's provider is a class, made without arguments; one that cannot
    be made, or is named like another, is logged and left out.
    """
    known = {provider.name: provider for provider in BUILT_IN}
    for name, make in installed(PROVIDERS_GROUP):
        try:
            provider: Provider = make()
            if provider.name != name or name in known or name == OWN.name:
                raise ValueError(f"it calls itself {provider.name!r}, and {name!r} is asked for")
            known[name] = provider
        except (Exception, SystemExit):
            log.exception("an installed provider cannot be used", extra={"provider": name})
    return known
