"""Measure how fast a teacher trains and scores, relative to the matrix products of the machine, in the same run.

    python benchmarks/teacher_training.py                       # tiny and small, a minute on one thread
    python benchmarks/teacher_training.py --presets published --steps 2
    python benchmarks/teacher_training.py --device cuda --presets published --steps 50 --length 200

Training is a complete step of `hoser_kd.teacher.training`: forward, backward, clipping and AdamW, with dropout and
the output layer over the vocabulary; scoring is `hoser_kd.teacher.scoring.score`. Only tokens of trips are counted,
so padding lowers the result. Lengths are uniform between 0.5 and 1.5 times `--length`.

The limit is the arithmetic of the model's matrices and of causal attention, with a backward pass of twice the forward
pass, at the speed of one large matrix product on the same device and in the same precision, measured between the
rounds. On a CPU, one thread is used and CPU seconds are counted, since other processes may share the machine. The
best round of each counts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from hoser_kd.common.arrays import offsets_of
from hoser_kd.common.optimizer import resolve_precision
from hoser_kd.common.progress import silent
from hoser_kd.config.teacher import TeacherConfig
from hoser_kd.lmtad.model import LMTADConfig
from hoser_kd.teacher.corpus import Corpus, length_batches
from hoser_kd.teacher.scoring import score
from hoser_kd.teacher.training import PRESETS, _Run


def corpus(num_trips: int, length: int, num_labels: int) -> Corpus:
    """Return trips of random cells; the cost does not depend on which cells they are."""
    rng = np.random.default_rng(0)
    offsets = offsets_of(rng.integers(max(length // 2, 1), length * 3 // 2 + 1, num_trips))
    return Corpus(offsets, rng.integers(0, num_labels, offsets[-1]))


def forward_flops(config: LMTADConfig, lengths: np.ndarray) -> float:
    """Return the floating-point operations of a forward pass over sequences of these lengths, with the output layer."""
    matrices = config.n_layer * 12 * config.n_embd**2 + config.vocab_size * config.n_embd
    # causal attention needs half of the pairs, in two products
    pairs = config.n_layer * 2 * config.n_embd * lengths * (lengths + 1)
    return float((2 * matrices * lengths + pairs).sum())


def machine_flops(device: torch.device, precision: str, seconds: float) -> float:
    """Return the FLOP/s of one large matrix product."""
    size = 8192 if device.type == "cuda" else 1536
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.rand(size, size, device=device).to(kind) for _ in range(2))
    torch.mm(a, b)
    settle(device)
    started, count = clock(device), 0
    while clock(device) - started < seconds:
        torch.mm(a, b)
        settle(device)
        count += 1
    return 2 * size**3 * count / (clock(device) - started)


def clock(device: torch.device) -> float:
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(preset: str, options: argparse.Namespace) -> dict[str, object]:
    layers, heads, width = PRESETS[preset]
    device = torch.device(options.device)
    data = corpus(options.batch_size * options.steps, options.length, options.vocabulary - 3)
    shape = LMTADConfig(
        max(options.block_size, int(data.lengths.max()) + 2), options.vocabulary, layers, heads, width, dropout=0.2
    )
    settings = TeacherConfig(
        preset=preset, batch_size=options.batch_size, precision=options.precision, compile=options.compile
    )
    precision = resolve_precision(options.precision, device)
    run = _Run(shape, settings, (data, data), Path(), device, silent, {})
    run.start(resume=False)
    batches = length_batches(data.lengths, options.batch_size, np.random.default_rng(0))
    half = precision != "fp32"

    def train() -> None:
        run.model.train()
        for rows in batches:
            run.step(rows, 1)

    def scoring() -> None:
        score(run.model.eval(), data, batch_size=options.batch_size, half=half)

    peak, seconds = 0.0, {}
    run.step(batches[0], 1)
    for _ in range(options.rounds):
        peak = max(peak, machine_flops(device, precision, options.peak_seconds))
        for name, work in (("training", train), ("scoring", scoring)):
            started = clock(device)
            work()
            settle(device)
            seconds[name] = min(seconds.get(name, np.inf), clock(device) - started)
    tokens, read = int(data.lengths.sum()) + data.num_sequences, data.lengths + 1
    needed = {"training": 3 * forward_flops(shape, read), "scoring": forward_flops(shape, read)}
    results: dict[str, object] = {
        "teacher": f"{layers} layers of {width}, V {options.vocabulary}, {run.model.num_parameters() / 1e6:.1f} M",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, 1 thread",
        "precision": precision,
        "machine_gflops": round(peak / 1e9, 1),
    }
    for name, taken in seconds.items():
        results[f"{name}_tokens_per_s"] = round(tokens / taken)
        results[f"{name}_limit_tokens_per_s"] = round(tokens / (needed[name] / peak))
        results[f"{name}_share_of_limit"] = round(needed[name] / peak / taken, 3)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=["tiny", "small"], help="sizes")
    parser.add_argument("--vocabulary", type=int, default=8220, help="tokens, special ones included")
    parser.add_argument("--block-size", type=int, default=1186, help="positions of the model")
    parser.add_argument("--length", type=int, default=60, help="mean cells per trip")
    parser.add_argument("--batch-size", type=int, default=32, help="trips per step")
    parser.add_argument("--steps", type=int, default=8, help="steps per round; scoring reads the same trips")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of all measurements")
    parser.add_argument("--peak-seconds", type=float, default=1.0, help="seconds of the matrix product per round")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="arithmetic")
    parser.add_argument("--compile", action="store_true", help="torch.compile, as `teacher.compile`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    for preset in options.presets:
        sys.stdout.write(json.dumps({preset: measure(preset, options)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
