"""Settings of trainings in several processes: how the machines find each other. They change no result."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from hoser_kd.config.section import EXECUTION_ONLY, Section


class TorchrunConfig(Section):
    """Machines that train a model together (docs/engines_torchrun.md).

    The command or Dagster runs on the first machine; on each other one, `hoser-kd join` does. Each trains in
    `student.num_processes` or `teacher.num_processes` processes.
    """

    example: ClassVar[str] = "{nodes: 2, rendezvous: 'host0:29500'}"

    nodes: int = Field(1, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Machines that train together; $HOSER_KD_NODES overrides it."""
    rendezvous: str | None = Field(None, json_schema_extra={EXECUTION_ONLY: True})
    """Address (host:port) of the first machine at which the others find it; $HOSER_KD_RENDEZVOUS overrides it."""
    join_timeout_s: int = Field(600, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Seconds that a training waits for all machines before it fails."""
    silence_timeout_s: int = Field(1800, ge=1, json_schema_extra={EXECUTION_ONLY: True})
    """Seconds without an answer of another process after which a training fails. A process that ends is noticed at
    once, a machine that loses its power or network only after this time. Validation by the other processes must fit."""

    @model_validator(mode="after")
    def _address(self) -> Self:
        if self.rendezvous is not None:
            host, _, port = self.rendezvous.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(f"rendezvous is host:port, such as host0:29500, not {self.rendezvous}")
        return self
