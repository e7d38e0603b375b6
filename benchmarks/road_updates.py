"""Update of the embeddings of road ids in two processes: what crosses the network, and how long a step takes.

    python benchmarks/road_updates.py --roads 1200000 --touched 12000 --steps 10

Compares `student.road_updates: dense` (an all-reduce and AdamW over all rows) with `touched_rows` (both over the rows
that a batch reads). Each process has the table of a student of published width, 64, and draws the rows of each step at
random. Bytes are those of the loopback interface.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.functional import embedding

from hoser_kd.common.distributed import DistributedContext
from hoser_kd.common.optimizer import Optimizer

WIDTH = 64


class Table(nn.Module):
    """An embedding table, whose gradient is dense or sparse."""

    def __init__(self, num_roads: int, *, sparse: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_roads, WIDTH))
        self.other = nn.Parameter(torch.ones(WIDTH))
        self.sparse = sparse

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return a scalar that depends on the rows."""
        return (embedding(rows, self.weight, sparse=self.sparse) * self.other).square().sum()


def received_bytes() -> int:
    """Return the bytes that the loopback interface has received."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[0])
    raise RuntimeError("no loopback interface")


def measure(rank: int, store: str, updates: str, options: argparse.Namespace) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    context, sparse = DistributedContext.current(), updates == "touched_rows"
    table = Table(options.roads, sparse=sparse)
    replica = context.replica(table, (table.weight,) if sparse else ())
    optimizer = Optimizer(
        [table.other] if sparse else list(table.parameters()),
        learning_rate=1e-3,
        weight_decay=0.1,
        total_steps=1000,
        warmup_ratio=0.1,
        max_norm=1.0,
        precision="fp32",
        device=torch.device("cpu"),
        rows=table.weight if sparse else None,
    )
    draw = torch.Generator().manual_seed(rank)
    wall, cpu, sent = 0.0, 0.0, 0
    for number in range(-2, options.steps):  # two steps to warm up
        rows = torch.randint(options.roads, (options.touched,), generator=draw).unique()
        context.wait()
        before = time.perf_counter(), time.process_time(), received_bytes()
        optimizer.catch_up(rows)
        optimizer.backward(replica(rows))
        optimizer.step()
        context.wait()
        if number >= 0:
            wall += time.perf_counter() - before[0]
            cpu += time.process_time() - before[1]
            sent += received_bytes() - before[2]
    if rank == 0:
        each = options.steps
        print(
            f"| `{updates}` | {sent / each / 2**20:,.1f} | {wall / each:.2f} | {cpu / each:.2f} |",
            flush=True,
        )
    distributed.destroy_process_group()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roads", type=int, default=1_200_000)
    parser.add_argument("--touched", type=int, default=12_000, help="rows that the share of a batch reads")
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    print(f"{options.roads:,} roads, {options.touched:,} rows per process and step, 2 processes\n")
    print("| `student.road_updates` | MiB per step, both directions | s per step | CPU s per step, one process |")
    print("|---|---|---|---|")
    for updates in ("dense", "touched_rows"):
        with tempfile.TemporaryDirectory() as folder:
            context = multiprocessing.get_context("fork")
            processes = [
                context.Process(target=measure, args=(rank, f"{folder}/store", updates, options)) for rank in range(2)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()


if __name__ == "__main__":
    main()
