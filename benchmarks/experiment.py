"""Run the experiment behind docs/results.md: students, baselines and ceilings on equal terms, by share of the trips.

    python benchmarks/experiment.py --city demo --shares 1.0 0.1 --recipes vanilla kl --seeds 0 1 2 3 4
    python benchmarks/experiment.py --city demo --only kl 0.1 0     # one student of the page, beside its stored row
    python benchmarks/experiment.py --city demo --recipes           # nothing new: only the rows and the page

benchmarks/experiment.yaml names the recipes and what each tries on validation. Students are stages of the pipeline, so
the artifact store (HOSER_KD_STORE, default `data`) keeps them: an interrupted run resumes, and a later run trains only
what is missing. Each student is measured once on test, beside its artifact in `experiment/` of the store, because the
stage `trajectory_metrics` would measure the vanilla student again for each recipe. Results: docs/results/<city>.json,
and the values by test trip in docs/results/runs/<city>, so that seeds can be added without this store.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from experiment_manifest import Changes, Manifest, Recipe
from experiment_results import ShareRuns, share_results, stored_results, write_file
from experiment_rows import City, Measured, ceilings_of, row_of, run_of, stored_row, stored_tries
from experiment_runs import BASELINES, OWN_MARKOV, RecipeRuns, Run, RunFiles, merge_runs, seeds_of
from results_page import RESULTS, write_page

from hoser_kd.common.errors import ConfigError
from hoser_kd.common.hashing import digest_json
from hoser_kd.common.progress import TimedLines
from hoser_kd.config.loading import load_config, with_changes
from hoser_kd.config.schema import CityConfig
from hoser_kd.evaluation import metrics
from hoser_kd.evaluation.baseline_settings import baseline_settings
from hoser_kd.evaluation.ceilings import Splits
from hoser_kd.evaluation.sampling_floor import jsd_floors
from hoser_kd.generation.baselines import fit_baselines
from hoser_kd.generation.decoding import Decoding
from hoser_kd.generation.generator import generate
from hoser_kd.generation.od_pairs import OdPairs
from hoser_kd.generation.prior import Prior
from hoser_kd.generation.prior_tuning import choose_prior
from hoser_kd.generation.trajectories import GeneratedTrajectories
from hoser_kd.hoser import HOSER, load
from hoser_kd.network.markov import MarkovChain
from hoser_kd.network.road_network import RoadNetwork
from hoser_kd.network.trajectories import Trajectories, concatenate
from hoser_kd.pipeline.run import make_with_inputs
from hoser_kd.pipeline.stage import Stage
from hoser_kd.pipeline.store import Artifact, Store
from hoser_kd.student.next_step_metrics import step_table, summarize_steps
from hoser_kd.student.pools import markov_probabilities, student_probabilities, teacher_probabilities
from hoser_kd.student.training_inputs import training_rows
from hoser_kd.teacher.soft_labels import SoftLabels

SETTINGS_FILE = Path(__file__).with_suffix(".yaml")
VANILLA = "vanilla"
SPLITS = ("train", "val", "test")


class Experiment:
    """A city with its recipes, stages and measurements."""

    def __init__(self, city: str, store: Store, settings_file: Path = SETTINGS_FILE) -> None:
        settings = yaml.safe_load(settings_file.read_text(encoding="utf-8"))
        self.city, self.own, self.store = city, settings[city], store
        self.recipes = {
            name: Recipe(
                name,
                each["stage"],
                each.get("settings", {}),
                each.get("tuned_as", name),
                tuple(each.get("other_teachers", ())),
                each.get("imported_teacher"),
            )
            for name, each in settings["recipes"].items()
        }
        self.base = with_changes(load_config(self.own["config"]), self.own["settings"])
        self.folder = Path(str(store.root)) / "experiment" / city
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lines = TimedLines(lambda line: sys.stderr.write(f"    {line}\n"), every_s=60)
        trips = self.make("trajectories", self.base).path
        self.trips = {split: Trajectories.load(trips / f"{split}.arrow") for split in SPLITS}
        self.network = RoadNetwork.load(self.make("road_network", self.base).path)
        self.steps = City(self.network, self.trips["val"], self.trips["test"])

    @property
    def about(self) -> dict[str, Any]:
        """What stored results must be equal in to stand beside new ones (`experiment_results.SAME`)."""
        return {
            "trips": {split: len(trips) for split, trips in self.trips.items()},
            "test_steps": self.trips["test"].num_steps,
            "base_settings": self.own["settings"],
        }

    def config(self, recipe: Recipe, share: float, chosen: Changes) -> CityConfig:
        """Return the settings of a recipe at a share of the trips."""
        changes = {"student.train_fraction": share, **chosen, **recipe.changes}
        teachers = [self.make("teacher", with_changes(self.base, each)) for each in recipe.other_teachers]
        if teachers:
            changes["distill.pooled.other_teachers"] = [str(teacher.path) for teacher in teachers]
        if recipe.imported_teacher is not None:
            teacher = self.make("teacher", with_changes(self.base, recipe.imported_teacher))
            changes["distill.ckpt_path"] = str(teacher.path)
        return with_changes(self.base, changes)

    def make(self, stage: str, config: CityConfig, seed: int = 0) -> Artifact:
        """Return an artifact of a stage; records the CPU time of the last stage that is computed."""
        started: list[tuple[Stage, float]] = []

        def begin(next_stage: Stage) -> None:
            self._say(f"{next_stage.name} seed {seed}")
            started.append((next_stage, time.process_time()))

        artifact = make_with_inputs(
            stage, config, self.store, seed=seed, on_stage=begin, progress=self._lines, stop_at_checks=False
        )
        if started and started[-1][0].name == stage:
            seconds = time.process_time() - started[-1][1]
            self._cost_file(artifact).write_text(json.dumps(seconds), encoding="utf-8")
            self._say(f"{stage} seed {seed} took {seconds:.0f} s CPU, {artifact.seconds:.0f} s")
        return artifact

    def _cost_file(self, artifact: Artifact) -> Path:
        return self.folder / f"{artifact.stage}-{artifact.version}.cpu.json"

    def cpu_seconds(self, artifact: Artifact) -> float | None:
        """Return the CPU time of an artifact; None if it was computed elsewhere."""
        file = self._cost_file(artifact)
        return float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {self.city}: {text}\n")

    def tune(self, recipe: Recipe, share: float, start: Changes) -> list[dict[str, Any]]:
        """Return each try of a recipe with its validation metrics, the best first.

        Tries that the results already have are not run again: they would cost more than the seeds.
        """
        tries = self.own["tries"][recipe.name]
        known = stored_tries(RESULTS / f"{self.city}.json", recipe.name, share)
        rows = []
        for changes in tries.get(share, tries.get("any")):
            settings = {**start, **changes}
            seed = settings.pop("seed", self.own["search_seed"])
            stored = [row for row in known if row["seed"] == seed and row["settings"] == settings]
            if stored:
                rows.append(stored[0])
                continue
            self._say(f"{recipe.name} {share:g}: try {changes}")
            summary = self.make(recipe.stage, self.config(recipe, share, settings), seed).summary
            names = ("val_nll", "val_decision_accuracy", "best_epoch", "steps")
            rows.append({"seed": seed, "settings": settings, **{name: summary[name] for name in names}})
        return sorted(rows, key=lambda row: row["val_nll"])

    def measure(self, recipe: Recipe, config: CityConfig, seed: int) -> Path:
        """Return the file with the measurements of a student on test; trains and measures what the store lacks."""
        artifact = self.make(recipe.stage, config, seed)
        key = [artifact.version, config.generation.model_dump(mode="json"), config.evaluation.model_dump(mode="json")]
        file = self.folder / f"{recipe.stage}-{digest_json(key)[:16]}.npz"
        if not file.is_file():
            self._say(f"{recipe.name} {config.student.train_fraction:g} seed {seed}: measure")
            cost = {"cost.train_s": artifact.seconds, "cost.train_cpu_s": self.cpu_seconds(artifact)}
            measured = self._measure(config, artifact, seed, file.with_suffix(".prior.json"))
            known = {name: value for name, value in cost.items() if value is not None}
            replace(measured, metrics={**measured.metrics, **known}).save(file)
        return file

    def _measure(self, config: CityConfig, artifact: Artifact, seed: int, record: Path) -> Measured:
        val, test = self.trips["val"], self.trips["test"]
        model = load(artifact.path)
        prior, chosen = self._prior(config, model, seed, record)
        decoding = Decoding.from_config(config.generation)
        started = time.process_time()
        generated = generate(model, test.origins, test.start_times, test.destinations, decoding=decoding, prior=prior)
        cost = {"cost.generate_cpu_s": time.process_time() - started}
        next_step = summarize_steps(step_table(model, test))
        return Measured.of(
            {**{f"next_step.{name}": value for name, value in next_step.items()}, **chosen, **cost},
            test,
            generated,
            self._trip_metrics(config, generated),
            *(student_probabilities(model, trips, self.network) for trips in (val, test)),
        )

    def _prior(
        self, config: CityConfig, model: HOSER, seed: int, record: Path
    ) -> tuple[Prior | None, dict[str, float]]:
        """Return the prior of generation and its chosen weights."""
        settings = config.generation.prior
        if not settings.is_on:
            return None, {}
        train = self.trips["train"]
        own = train.take(training_rows(len(train), config.student.train_fraction, seed))
        score = baseline_settings(self.network).score
        decoding = Decoding.from_config(config.generation)
        prior, rows = choose_prior(
            settings, model, own, self.trips["val"], self.network, decoding, score, record=record
        )
        chosen = [row for row in rows if row["chosen"]]
        names = ("markov_weight", "temperature", "cost_per_km")
        return prior, {f"prior.{name}": float(row[name]) for row in chosen for name in names}

    def _trip_metrics(self, config: CityConfig, generated: Trajectories) -> dict[str, Any]:
        test = self.trips["test"]
        return metrics.evaluate(
            test,
            generated,
            self.network,
            config.evaluation,
            destinations=test.destinations,
            training=self.trips["train"],
            paired=True,
            details=True,
        )

    def baselines(self) -> tuple[dict[str, Run], dict[str, Any]]:
        """Return the measurements of the baselines on the same requests, and next-step metrics of counting models."""
        artifact = self.make("baseline_trips", self.base)
        stored = json.loads((artifact.path / "metrics.json").read_text(encoding="utf-8"))
        measured = {}
        for name in stored["trips"]:
            generated = GeneratedTrajectories.read_parquet(artifact.path / f"{name}.parquet")
            cost = {"cost.generate_s": artifact.summary[f"{name}_seconds"]}
            result = self._trip_metrics(self.base, generated)
            measured[name] = run_of(Measured.of(cost, self.trips["test"], generated, result), self.steps)
        return measured, stored["next_step"]

    def own_markov(self, share: str, seed: int) -> Run:
        """Return the measurements of a Markov chain of the trips that a student of this seed trains on."""
        file = self.folder / f"own-markov-{share}-{seed}.npz"
        if not file.is_file():
            train, test = self.trips["train"], self.trips["test"]
            own = train.take(training_rows(len(train), float(share), seed))
            settings = baseline_settings(self.network, self.base.evaluation)
            chain = fit_baselines(own, self.trips["val"], self.network, settings, ["markov"])["markov"]
            generated = chain.generate(OdPairs(test.origins, test.start_times, test.destinations, None))
            Measured.of({}, test, generated, self._trip_metrics(self.base, generated)).save(file)
        return run_of(Measured.load(file), self.steps)

    @cached_property
    def pool_members(self) -> dict[str, Splits]:
        """Return the probabilities of teacher and Markov chain on validation and test trips."""
        labels = self.make("teacher_soft_labels", self.base).path
        chain = MarkovChain.tune(self.trips["train"], self.trips["val"], self.network)
        held_out = {split: self.trips[split] for split in ("val", "test")}
        return {
            "teacher": Splits(
                *(
                    teacher_probabilities(SoftLabels.load(labels / f"{split}.arrow"), trips, self.network)
                    for split, trips in held_out.items()
                )
            ),
            "markov": Splits(*(markov_probabilities(chain, trips) for trips in held_out.values())),
        }


def run_share(experiment: Experiment, share: float, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Tune and measure recipes at a share of the trips."""
    tried = {VANILLA: experiment.tune(experiment.recipes[VANILLA], share, {})}
    for name in names:
        recipe = experiment.recipes[name]
        if recipe.tuned_as not in tried:
            tuned = experiment.recipes[recipe.tuned_as]
            tried[tuned.name] = experiment.tune(tuned, share, tried[VANILLA][0]["settings"])
        rows = tried[recipe.tuned_as]
        config = experiment.config(recipe, share, rows[0]["settings"])
        for seed in seeds:
            file = experiment.measure(recipe, config, seed)
            Manifest(experiment.folder).add(share, recipe, rows, {seed: file})


def write_results(experiment: Experiment) -> None:
    """Write docs/results/<city>.json and the runs from all measurements in the store and what was written before.

    Trains the teacher if there is none. Raises ConfigError where the stored results are not comparable.
    """
    file = RESULTS / f"{experiment.city}.json"
    stored = stored_results(file, experiment.about)["shares"]
    files, manifest = RunFiles(RESULTS / "runs" / experiment.city), Manifest(experiment.folder)
    baselines, next_step = experiment.baselines()
    files.write(BASELINES, {name: RecipeRuns({}, {0: run}) for name, run in baselines.items()})
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    shares = {
        share: share_results(stored.get(share, {}), share_runs(experiment, manifest, files, share), baselines, date)
        for share in sorted({*manifest.content, *stored, *files.shares()}, key=float, reverse=True)
    }
    floors = jsd_floors(concatenate(list(experiment.trips.values())), experiment.network, len(experiment.trips["test"]))
    content = {
        "city": experiment.city,
        "date": date,
        "versions": {name: version(name) for name in ("hoser-kd", "torch", "numpy")}
        | {"python": platform.python_version()},
        **experiment.about,
        "search_seed": experiment.own["search_seed"],
        "baselines": {name: row_of({0: each}) for name, each in baselines.items()},
        "next_step_baselines": next_step,
        "floors": {name: floor._asdict() for name, floor in floors.items()},
        "shares": shares,
    }
    write_file(file, content)


def share_runs(experiment: Experiment, manifest: Manifest, files: RunFiles, share: str) -> ShareRuns:
    """Return all runs of a share, of the store and committed ones, and commit those of the store."""
    recipes = merge_runs(files.read(share), manifest.runs(share, experiment.steps))
    files.write(share, recipes)
    seeds = [] if float(share) == 1 else seeds_of(recipes.values())
    own = {seed: experiment.own_markov(share, seed) for seed in seeds}
    if own:
        files.write(OWN_MARKOV, {share: RecipeRuns({}, own)})
    return ShareRuns(share, recipes, own, manifest.tried(share), _ceilings(experiment, manifest, share))


def _ceilings(experiment: Experiment, manifest: Manifest, share: str) -> dict[str, Any] | None:
    """Return the pools of the store's vanilla students, None without any; kept, because fitting takes a minute."""
    vanilla = manifest.students(share, VANILLA)
    if not vanilla:
        return None
    key = digest_json([manifest.content[share][VANILLA]["files"], experiment.make("teacher", experiment.base).version])
    file = experiment.folder / f"ceilings-{key[:16]}.json"
    if not file.is_file():
        ceilings = ceilings_of(vanilla, experiment.pool_members, experiment.steps)
        file.write_text(json.dumps(ceilings), encoding="utf-8")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def reproduce(experiment: Experiment, name: str, share: float, seed: int) -> None:
    """Train and measure one student with the settings that were chosen, and print it beside its stored row."""
    row = stored_row(RESULTS / f"{experiment.city}.json", name, share)
    recipe = experiment.recipes[name]
    started = time.perf_counter(), time.process_time()
    measured = Measured.load(experiment.measure(recipe, experiment.config(recipe, share, row["settings"]), seed))
    print(f"{experiment.city}, {name}, {share:.0%} of the trips, seed {seed}")
    print(f"{'metric':28} {'measured':>10} {'stored':>10}")
    for metric, each in row["metrics"].items():
        before = each["by_seed"][row["seeds"].index(seed)] if seed in row["seeds"] else float("nan")
        print(f"{metric:28} {measured.metrics[metric]:10.5f} {before:10.5f}")
    print(f"{time.perf_counter() - started[0]:.0f} s, {time.process_time() - started[1]:.0f} s CPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--city", required=True)
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.3, 0.1], help="of the training trips")
    parser.add_argument("--recipes", nargs="*", default=[VANILLA, "kl"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--only", nargs=3, metavar=("RECIPE", "SHARE", "SEED"), help="reproduce one student")
    parser.add_argument("--no-rows", action="store_true", help="measure, but write no results and no page")
    options = parser.parse_args()
    if options.only:
        try:
            stored_row(RESULTS / f"{options.city}.json", options.only[0], float(options.only[1]))
        except (ConfigError, ValueError) as error:
            parser.error(str(error))
    experiment = Experiment(options.city, Store(os.environ.get("HOSER_KD_STORE") or "data"))
    if options.only:
        name, share, seed = options.only
        reproduce(experiment, name, float(share), int(seed))
        return
    if not options.no_rows:
        try:
            stored_results(RESULTS / f"{options.city}.json", experiment.about)
        except ConfigError as error:
            parser.error(str(error))
    for share in options.shares if options.recipes else []:
        run_share(experiment, share, options.recipes, options.seeds)
    if not options.no_rows:
        write_results(experiment)
        write_page()


if __name__ == "__main__":
    main()
