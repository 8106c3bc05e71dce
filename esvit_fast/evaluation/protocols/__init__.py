"""The protocols, one file each, which is found because it lies here; further ones come from plug-ins."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from ..protocol import PROTOCOLS, Protocol

for _file in pkgutil.iter_modules(__path__):
    import_module(f".{_file.name}", __name__)


def get_protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        ValueError: there is none; with the nearest name.
    """
    return PROTOCOLS.find(name, "protocol")


def list_protocols() -> list[Protocol]:
    """All protocols, in the order of lists and reports."""
    return sorted(PROTOCOLS.values(), key=lambda protocol: (protocol.position, protocol.name))
