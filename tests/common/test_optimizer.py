"""The optimizer equals torch's AdamW bit for bit, and a process that trains does not import torch's compiler."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import torch

from hoser_kd.common.optimizer import AdamW

ROOT = Path(__file__).resolve().parents[2]
TRAIN = """
import sys, torch
from hoser_kd.common.optimizer import Optimizer
layer = torch.nn.Linear(2, 1)
optimizer = Optimizer(layer.parameters(), learning_rate=0.1, weight_decay=0.1, total_steps=2, warmup_ratio=0.0,
                      max_norm=1.0, precision="fp32", device=torch.device("cpu"))
for _ in range(2):
    optimizer.backward(layer(torch.ones(2)).sum())
    optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""


def test_steps_equal_those_of_torch():
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 1))
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1, "fused": True}
    optimizers = AdamW(ours.parameters(), **settings), torch.optim.AdamW(theirs.parameters(), **settings)
    for _ in range(3):
        data = torch.randn(4, 5)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model(data).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.grad is None
    one, other = (optimizer.state_dict() for optimizer in optimizers)
    assert one["param_groups"] == other["param_groups"]
    assert torch.equal(one["state"][0]["exp_avg_sq"], other["state"][0]["exp_avg_sq"])
    again = torch.optim.AdamW(copy.deepcopy(ours).parameters(), **settings)
    again.load_state_dict(one)
    assert again.state_dict()["state"][0]["step"] == 3


def test_training_does_not_import_the_compiler():
    done = subprocess.run([sys.executable, "-c", TRAIN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
