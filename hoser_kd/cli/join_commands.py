"""The command with which a machine takes part in the trainings of another one."""

from __future__ import annotations

import argparse
import os
import sys

from hoser_kd.cli.command import AddCommand
from hoser_kd.common.errors import ConfigError, ProcessError, RendezvousError
from hoser_kd.config.torchrun import TorchrunConfig
from hoser_kd.pipeline.workers.nodes import NODES, RENDEZVOUS, Nodes


def add_join_commands(command: AddCommand) -> None:
    """Add the command for a further machine."""
    join = command(
        "join",
        "Take part in the trainings of the machine at the rendezvous, whose settings have torchrun.nodes above 1. Ends "
        "when no training has started for --wait seconds; a training that is lost is joined again when it resumes.",
        _join,
    )
    join.add_argument("--rendezvous", help=f"address host:port of the first machine (default: ${RENDEZVOUS})")
    join.add_argument("--nodes", type=int, help=f"machines in all (default: ${NODES})")
    join.add_argument("--node-rank", type=int, required=True, help="number of this machine; the first one is 0")
    join.add_argument("--processes", type=int, default=1, help="processes here, as many as on the first machine")
    join.add_argument("--cuda", type=int, choices=(-1,), help="-1 for the CPU (default: GPUs if there are any)")
    join.add_argument("--wait", type=int, default=600, metavar="SECONDS", help="time to wait for a training (600)")
    join.add_argument("--once", action="store_true", help="end after one training; the exit status is 2 if it fails")


def _join(options: argparse.Namespace) -> int:
    nodes = _nodes(options)
    # imported here, so that --help is fast
    from hoser_kd.pipeline.workers.launcher import join

    while True:
        try:
            join(nodes, options.processes, "auto" if options.cuda is None else "cpu")
            sys.stderr.write(f"hoser-kd: a training at {nodes.rendezvous} has ended\n")
        except RendezvousError:
            if options.once:
                raise
            sys.stderr.write(f"hoser-kd: no training at {nodes.rendezvous} in {options.wait} s\n")
            return 0
        except ProcessError as error:
            if options.once:
                raise
            sys.stderr.write(f"hoser-kd: {str(error).splitlines()[0]}\n")
        if options.once:
            return 0


def _nodes(options: argparse.Namespace) -> Nodes:
    """Return the machines of the options and the environment. Raises ConfigError for those that cannot be."""
    given = {NODES: options.nodes and str(options.nodes), RENDEZVOUS: options.rendezvous}
    environment = {**os.environ, **{name: value for name, value in given.items() if value}}
    first = Nodes.of(TorchrunConfig(join_timeout_s=options.wait), environment)
    if first.count == 1:
        raise ConfigError(f"one machine has nothing to join. Give --nodes, or set {NODES}.")
    if not 0 < options.node_rank < first.count:
        raise ConfigError(
            f"--node-rank {options.node_rank} is not the number of a further machine: 1 to {first.count - 1}. The "
            "first machine, 0, runs the command of the training itself."
        )
    return Nodes(first.count, options.node_rank, first.rendezvous, first.join_timeout_s, first.silence_timeout_s)
