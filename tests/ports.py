"""Unused ports for servers of tests."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_ports(count: int) -> list[int]:
    """Return unused ports of this machine below the range from which the kernel assigns ports.

    A port of that range may be given to any other process between this call and the start of the server. Processes
    that choose at the same time choose differently, because the order is random.
    """
    first = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.is_file() else 32768
    ports: list[int] = []
    for port in random.Random(f"{os.getpid()} {os.urandom(8).hex()}").sample(range(10_000, first), 500):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError("no unused port")
