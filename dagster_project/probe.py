"""Whether a server listens. Does not import Dagster."""

from __future__ import annotations

import socket
from typing import Any


def listens(family: socket.AddressFamily, address: Any) -> bool:
    """Return whether a server accepts connections at an address: a path, or a host and a port."""
    with socket.socket(family) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
        return True
