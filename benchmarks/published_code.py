"""Run the published code of HOSER and LM-TAD from checkouts of their repositories, for `against_published.py`.

Nothing of that code is in this project. Its modules are imported from the checkout. What `train.py` does under
`if __name__ == "__main__"`, and the cells of the evaluation notebook, are read from the files, compiled and executed
statement by statement, on a folder with the layout that they expect. Changed are only the device and what prints or
logs. Libraries that only log or draw are replaced by a stand-in where they are not installed.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import importlib.util
import json
import os
import sys
import time
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import yaml

PRINTING = ("loguru", "seaborn")
NAMES = ("utils", "models", "dataset", "train", "gene", "map_manager")
"""Modules of both repositories; they clash with each other."""
MISSING_HINT = "Install it beside the project: pip install haversine geopy fastdtw hausdorff."


@contextlib.contextmanager
def imported_from(*folders: Path):
    """Let modules be imported from these folders, and forget them afterwards."""
    stand_ins = [name for name in PRINTING if importlib.util.find_spec(name) is None]
    sys.modules.update({name: MagicMock() for name in stand_ins})
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    try:
        yield
    except ModuleNotFoundError as error:
        raise SystemExit(f"the published code needs {error.name}, which is not installed. {MISSING_HINT}") from error
    finally:
        del sys.path[: len(folders)]
        for name in [*sys.modules]:
            if name.split(".")[0] in (*NAMES, *stand_ins):
                del sys.modules[name]


@contextlib.contextmanager
def working_in(folder: Path):
    """Change the working directory, since the published code reads relative paths."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def quiet():
    """Drop what the published code prints, and its progress bars."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def main_statements(path: Path) -> list[ast.stmt]:
    """Return the statements under `if __name__ == "__main__"` of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            return node.body
    raise SystemExit(f"{path} has no main block. Give a checkout of caoji2001/HOSER.")


def run(statements: list[ast.stmt], path: Path, names: dict[str, Any]) -> None:
    """Execute statements of a file with these names."""
    exec(compile(ast.Module(statements, []), str(path), "exec"), names)


class PublishedTraining:
    """The main block of HOSER's `train.py` up to its first epoch, and the body of its training loop."""

    def __init__(self, checkout: Path, folder: Path, model, device: str = "cpu") -> None:
        """`folder` has data/city in HOSER's format; `model`: ours, whose sizes and weights are taken."""
        (folder / "config").mkdir(exist_ok=True)
        (folder / "config" / "city.yaml").write_text(yaml.safe_dump(_settings(checkout, model.config)))
        path = checkout / "train.py"
        with imported_from(checkout), working_in(folder), quiet():
            module = importlib.import_module("train")
            self.names = dict(vars(module))
            statements = main_statements(path)
            arguments, sys.argv = sys.argv, ["train.py", "--dataset", "city"]
            try:
                at = next(i for i, node in enumerate(statements) if _is_loop(node, "max_epoch"))
                for node in statements[:at]:
                    run([node], path, self.names)
                    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "device":
                        self.names["device"] = device
            finally:
                sys.argv = arguments
        self.names["writer"] = MagicMock()
        self.model = self.names["model"]
        self.model.load_state_dict(model.state_dict())
        loop = next(node for node in statements[at].body if _is_loop(node, "train_dataloader"))
        before = statements[at].body[: statements[at].body.index(loop)]
        run(before, path, {**self.names, "epoch_id": 0})  # training mode
        self.names |= {"epoch_id": 0, "batch_id": 0}
        names = loop.target.elts[1]
        self._assign = compile(f"{ast.unparse(names)} = _batch", str(path), "exec")
        self._body = compile(ast.Module(loop.body, []), str(path), "exec")

    def prepare(self, rows) -> list[tuple]:
        """Return the items of some trips; collating changes them, so each batch needs its own."""
        return [copy.deepcopy(self.names["train_dataset"][row]) for row in rows]

    def collate(self, items: list[tuple]) -> tuple:
        return self.names["train_dataloader"].collate_fn(items)

    def step(self, batch: tuple) -> dict[str, float]:
        """Run the body of the training loop on a collated batch; returns both losses."""
        self.names["_batch"] = batch
        exec(self._assign, self.names)
        exec(self._body, self.names)
        return {name: float(self.names[name]) for name in ("loss_next_step", "loss_time_pred")}


def _is_loop(node: ast.stmt, over: str) -> bool:
    return isinstance(node, ast.For) and over in ast.unparse(node.iter)


def _settings(checkout: Path, config) -> dict[str, Any]:
    """Return a published settings file with the sizes of our model."""
    settings = yaml.safe_load((checkout / "config" / "Porto.yaml").read_text())
    encoder = settings["road_network_encoder_config"]
    sizes = (config.road_id_dim, config.length_dim, config.type_dim, config.lon_dim, config.lat_dim)
    names = ("road_id_emb_dim", "len_emb_dim", "type_emb_dim", "lon_emb_dim", "lat_emb_dim")
    encoder |= dict(zip(names, sizes, strict=True))
    encoder |= {"intersection_emb_dim": config.hidden_dim, "zone_id_emb_dim": config.hidden_dim}
    encoder["zone_id_num_embeddings"] = config.num_zones
    settings["trajectory_encoder_config"] |= {
        "hidden_dim": config.hidden_dim,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "max_len": config.max_len,
    }
    settings["navigator_config"]["hidden_dim"] = config.hidden_dim
    return settings


class PublishedSearch:
    """HOSER's `gene.Searcher`, which answers one request at a time."""

    def __init__(self, checkout: Path, training: PublishedTraining, network, scale, device: str = "cpu") -> None:
        with imported_from(checkout):
            module = importlib.import_module("gene")
        names = training.names
        self._searcher = module.Searcher(
            training.model,
            names["reachable_road_id_dict"],
            names["geo"],
            network.centroids,
            scale.mean,
            scale.std,
            device,
        )
        self._infer, self.expansions = training.model.infer, 0
        training.model.infer = self._counted

    def _counted(self, *arguments):
        self.expansions += 1
        return self._infer(*arguments)

    def trip(self, origin: int, start, destination: int, max_steps: int) -> list[int]:
        """Return the roads of a trip; `start` is a datetime."""
        roads, _ = self._searcher.search(origin, start, destination, max_steps)
        return [int(road) for road in roads]


class PublishedMetrics:
    """The cells of HOSER's evaluation notebook."""

    def __init__(self, checkout: Path, folder: Path, network) -> None:
        """`folder` is empty. The notebook's box of the city is replaced by that of the network."""
        self._path = checkout / "evaluation" / "main.ipynb"
        cells = json.loads(self._path.read_text(encoding="utf-8"))["cells"]
        self._cells = [ast.parse("".join(c["source"])).body for c in cells if c["cell_type"] == "code"]
        self._folder, self._checkout = folder, checkout
        low, high = network.centroids.min(0), network.centroids.max(0)
        self._box = dict(zip(("lat_0", "lon_0", "lat_1", "lon_1"), (*low, *high), strict=True))

    def __call__(self, data: Path, generated: Path) -> tuple[float, dict[str, float]]:
        """Return the CPU seconds of all cells after those that read files, and the three distances of pairs."""
        work = self._folder / "a" / "b"
        (work / "gene" / "HOSER").mkdir(parents=True, exist_ok=True)
        cleaned = self._folder / "cleaned-data"
        cleaned.mkdir(exist_ok=True)
        (cleaned / "new_test.csv").write_bytes((data / "test.csv").read_bytes())
        (cleaned / "roadmap.geo").write_bytes((data / "roadmap.geo").read_bytes())
        (work / "gene" / "HOSER" / "generated.csv").write_bytes(generated.read_bytes())
        names: dict[str, Any] = {}
        seconds = 0.0
        with imported_from(self._checkout / "evaluation"), working_in(work), quiet():
            self._use_box(importlib.import_module("map_manager").MapManager)
            for cell in self._cells:
                reads = "read_csv('../../" in ast.unparse(ast.Module(cell, [])) or "road_gps" not in names
                started = time.process_time()
                run(cell, self._path, names)
                seconds += 0 if reads else time.process_time() - started
        values = {name: float(np.mean(names[f"{name}_list"])) for name in ("hausdorff", "dtw", "edr")}
        return seconds, values

    def _use_box(self, manager: type) -> None:
        box = self._box

        def begin(self, _city: str) -> None:
            vars(self).update(box, img_width=100_000, img_height=100_000)

        manager.__init__ = begin


def published_teacher(checkout: Path, model) -> torch.nn.Module:
    """Return LM-TAD's own model with the weights of ours."""
    package = types.ModuleType("models")
    package.__path__ = [str((checkout / "code" / "models").resolve())]
    with imported_from(checkout / "code"), quiet():
        sys.modules["models"] = package  # without its __init__, which imports the other models of the repository
        module = importlib.import_module("models.LMTAD")
        config = module.LMTADConfig(
            **{
                name: getattr(model.config, name)
                for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
            },
            pad_token=model.config.pad_token,
        )
        theirs = module.LMTAD(config).eval()
    theirs.load_state_dict(model.state_dict())
    return theirs
