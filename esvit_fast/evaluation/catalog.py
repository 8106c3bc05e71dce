"""All protocols by name: those of the package, which lie in `protocols/`, and those of plug-ins."""

from __future__ import annotations

from . import protocols  # noqa: F401  each registers itself
from .protocol import PROTOCOLS, Protocol


def get_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        UserError: there is none; with the nearest name.
    """
    return PROTOCOLS.find(name, "protocol")


def list_protocols() -> list[Protocol]:
    """All protocols, in the order of lists and reports."""
    return sorted(PROTOCOLS.values(), key=lambda protocol: (protocol.position, protocol.name))
