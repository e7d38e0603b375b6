"""Machines that train a model together, as `torchrun` needs them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from hoser_kd.common.errors import ConfigError
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.torchrun import TorchrunConfig

NODES, RENDEZVOUS = "HOSER_KD_NODES", "HOSER_KD_RENDEZVOUS"
"""Environment variables: number of machines, and address of the first one."""


@dataclass(frozen=True)
class Nodes:
    """Number and place of the machines of a training; by default this one alone."""

    count: int = 1
    """Number of machines."""
    rank: int = 0
    """Number of this machine; the first one, 0, has the job and the rendezvous."""
    rendezvous: str = ""
    """Address (host:port) of the first machine."""
    join_timeout_s: int = 600
    """Seconds to wait for all machines."""
    silence_timeout_s: int = 1800
    """Seconds without an answer of another process after which the training fails."""

    @classmethod
    def of(cls, config: TorchrunConfig, environment: Mapping[str, str] = os.environ) -> Nodes:
        """Return the machines of the settings and the environment, seen from the first one.

        Raises ConfigError if an address is missing or a variable has no valid value.
        """
        try:
            given = {"nodes": environment.get(NODES), "rendezvous": environment.get(RENDEZVOUS)}
            changes = {name: value for name, value in given.items() if value}
            if "nodes" in changes:
                changes["nodes"] = int(changes["nodes"])  # type: ignore[assignment]
            config = TorchrunConfig.model_validate({**config.model_dump(), **changes})
        except ValueError:
            raise ConfigError(
                f"{NODES}={environment.get(NODES)}, {RENDEZVOUS}={environment.get(RENDEZVOUS)}: expected a number of "
                "machines from 1 and an address host:port."
            ) from None
        if config.nodes > 1 and config.rendezvous is None:
            raise ConfigError(
                f"{config.nodes} machines train together, but the address of the first one is missing. Set "
                f"`torchrun.rendezvous: <host>:<port>` or {RENDEZVOUS}."
            )
        return cls(config.nodes, 0, config.rendezvous or "", config.join_timeout_s, config.silence_timeout_s)

    @classmethod
    def require_one(cls, config: CityConfig, environment: Mapping[str, str] = os.environ) -> None:
        """Raise ConfigError if the environment gives several machines to a recipe that runs in one process.

        The settings refuse `torchrun.nodes` themselves. Call it before the first stage, not before the training.
        """
        if not config.distill.enabled or not config.distill.uses_off_path:
            return
        count = cls.of(config.torchrun, environment).count
        if count > 1:
            raise ConfigError(
                f"{NODES}={count}: the students train on {count} machines, but `distill.recipe` of {config.city} has "
                f"off_path, which runs in one process. Unset {NODES}, or remove off_path from `distill.recipe`."
            )

    @contextmanager
    def one_training(self) -> Iterator[None]:
        """Wait until no other training of this machine uses the rendezvous, because the others join one at a time."""
        if self.count == 1 or self.rank:
            yield
            return
        name = hashlib.sha256(self.rendezvous.encode()).hexdigest()[:16]
        with FileLock(Path(tempfile.gettempdir()) / f"hoser-kd-{os.getuid()}-{name}.lock"):
            yield

    def torchrun_options(self) -> list[str]:
        """Return the options of `torchrun`."""
        if self.count == 1:
            return ["--standalone"]
        return [
            "--nnodes",
            str(self.count),
            "--node-rank",
            str(self.rank),
            # static: the first machine has the process of rank 0, which writes the files
            "--rdzv-backend",
            "static",
            "--rdzv-endpoint",
            self.rendezvous,
            "--rdzv-conf",
            f"timeout={self.join_timeout_s}",
        ]
