"""Studies of sweeps, and folders of cities' YAML files, with one mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bad_input_kinds.base import BadInput

GOOD = "stage: vanilla_student\nsearch: {student.learning_rate: [0.001, 0.01]}\n"


def bad_studies() -> Iterator[BadInput]:
    """Yield studies that cannot be run."""

    def study(text: str | bytes, name: str = "study.yaml") -> Callable[[Path], Any]:
        def read(folder: Path) -> Any:
            file = folder / name
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
            return _check(file)

        return read

    yield BadInput("studies", "a valid study", study(GOOD), ["student.learning_rate"])
    for label, text in {
        "empty": "",
        "a list": "[1]",
        "text": "study",
        "no search": "stage: vanilla_student\n",
        "an empty search": "search: {}\n",
        "no values": "search: {student.learning_rate: []}\n",
        "one value, not in a list": "search: {student.learning_rate: 0.1}\n",
        "an unknown setting": "search: {student.learning_rat: [1, 2]}\n",
        "a section": "search: {student: [1, 2]}\n",
        "a value of another type": "search: {student.learning_rate: [a, b]}\n",
        "a value out of range": "search: {student.learning_rate: [-1.0, 0.1]}\n",
        "a range out of range": "search: {student.learning_rate: {low: -1.0, high: 0.1}}\n",
        "a range of text": "search: {student.learning_rate: {low: a, high: b}}\n",
        "a range without high": "search: {student.learning_rate: {low: 0.1}}\n",
        "a range upside down": "search: {student.learning_rate: {low: 1.0, high: 0.1}}\n",
        "a range with nan": "search: {student.learning_rate: {low: 0.1, high: .nan}}\n",
        "a range with infinity": "search: {student.learning_rate: {low: 0.1, high: .inf}}\n",
        "a step of 0": "search: {student.learning_rate: {low: 0.1, high: 1.0, step: 0}}\n",
        "a step beyond the range": "search: {student.learning_rate: {low: 0.1, high: 0.2, step: 5.0}}\n",
        "log from 0": "search: {student.learning_rate: {low: 0.0, high: 0.2, log: true}}\n",
        "fractions for a whole number": "search: {student.batch_size: {low: 1.5, high: 8.5}}\n",
        "an unknown stage": GOOD.replace("vanilla_student", "vanila_student"),
        "a stage of the city": GOOD.replace("vanilla_student", "road_network"),
        "an unknown direction": f"direction: up\n{GOOD}",
        "an unknown sampler": f"sampler: bayes\n{GOOD}",
        "grid over a range": "sampler: grid\nsearch: {student.learning_rate: {low: 0.1, high: 0.2}}\n",
        "no trials": f"trials: 0\n{GOOD}",
        "trials of 1e3": f"trials: 1e3\n{GOOD}",
        "no seeds": f"seeds: []\n{GOOD}",
        "a seed twice": f"seeds: [1, 1]\n{GOOD}",
        "a seed below 0": f"seeds: [-1]\n{GOOD}",
        "a seed of 30 digits": f"seeds: [{'9' * 30}]\n{GOOD}",
        "seeds as text": f"seeds: all\n{GOOD}",
        "an unknown key": f"metrik: val_nll\n{GOOD}",
        "a setting fixed and searched": f"settings: {{student.learning_rate: 0.1}}\n{GOOD}",
        "a fixed setting that is unknown": f"settings: {{student.layers: 3}}\n{GOOD}",
        "a fixed setting out of range": f"settings: {{student.batch_size: 0}}\n{GOOD}",
        "settings as a list": f"settings: [1]\n{GOOD}",
        "a key twice": f"{GOOD}{GOOD}",
        "a list as key": "search: {[a, b]: [1]}\n",
        "the city": "search: {city: [a, b]}\n",
        "a key that the stage does not depend on": "stage: vanilla_student\nsearch: {distill.lambda_kl: [0.1, 1.0]}\n",
        "an unknown metric": f"metric: val_nlll\n{GOOD}",
        "a compared seed": f"seeds: [0]\n{GOOD}",
        "values twice": "search: {student.learning_rate: [0.1, 0.1]}\n",
        "a python object": "search: !!python/object/apply:os.system [true]\n",
    }.items():
        yield BadInput("studies", label, study(text))
    yield BadInput("studies", "UTF-16", study(GOOD.encode("utf-16")))
    yield BadInput("studies", "zeros", study(bytes(50)))
    yield BadInput("studies", "nested deeply", study("search: " + "{a: " * 3000))
    yield BadInput("studies", "a name with a blank", study(GOOD, "my study.yaml"))
    yield BadInput("studies", "no such file", lambda folder: _check(folder / "none.yaml"))


def _check(file: Path) -> Any:
    """Read a study and check it against a city, as `hoser-kd sweep` does before it starts."""
    from hoser_kd.config.schema import CityConfig
    from hoser_kd.config.study import load_study
    from hoser_kd.pipeline.store import Store
    from hoser_kd.pipeline.sweep import Sweep

    study = load_study(file)
    config = CityConfig.model_validate(
        {"city": "town", "source": {"kind": "synthetic"}, "grid": {"bounds": "roads", "cell_size_m": 80}}
    )
    Sweep(file.stem, study, config, Store(file.parent / "store"))
    return list(study.search)


def bad_city_folders() -> Iterator[BadInput]:
    """Yield YAML files in a folder of cities: an odd one is reported, and the other city is still read."""
    good = b"source: {kind: synthetic}\ngrid: {bounds: roads, cell_size_m: 80}\n"
    bomb = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + k, 98 + k, b", ".join([b"*%c" % (97 + k)] * 9)) for k in range(9)
    )
    for label, name, content in (
        ("Latin-1", "porto.yaml", b"# stra\xdfe\n" + good),
        ("UTF-16", "porto.yaml", good.decode().encode("utf-16")),
        ("zeros", "porto.yaml", bytes(100)),
        ("random bytes", "porto.yaml", bytes(range(256))),
        ("nested deeply", "porto.yaml", b"source: " + b"[" * 20_000),
        ("5,000 digits", "porto.yaml", b"student: {max_epochs: " + b"9" * 5000 + b"}\n" + good),
        ("a list as key", "porto.yaml", b"? [a, b]\n: 1\n" + good),
        ("an alias bomb", "porto.yaml", bomb + good),
        ("an alias to itself", "porto.yaml", b"source: &a {kind: *a}\n"),
        ("a merge key", "porto.yaml", b"a: &a {kind: synthetic}\nsource: {<<: *a}\n"),
        ("two documents", "porto.yaml", good + b"---\n" + good),
        ("tabs", "porto.yaml", b"source:\n\tkind: synthetic\n"),
        ("a NUL", "porto.yaml", good + b"# \x00\n"),
        ("a lone surrogate", "porto.yaml", good + b'# "\\ud800"\ncity: "\\ud800"\n'),
        ("another city's name", "porto.yaml", b"city: london\n" + good),
        ("a name with a blank", "my city.yaml", good),
        ("a name with an accent", "m\xfcnchen.yaml", good),
        ("a name of 150 letters", "c" * 150 + ".yaml", good),
        ("a name that begins with a minus", "-porto.yaml", good),
        ("a name in other letters", "\u6771\u4eac.yaml", good),
    ):
        yield BadInput("cities", label, _folder_with(name, content, good))
    yield BadInput("cities", "a folder named .yaml", _folder_with("porto.yaml", None, good))
    yield BadInput("cities", "a link to nowhere", _folder_with("porto.yaml", Path("nowhere"), good))
    yield BadInput("cities", "a link to itself", _folder_with("porto.yaml", Path("porto.yaml"), good))
    yield BadInput("cities", "san-francisco", _folder_with("san-francisco.yaml", good, good), ["san-francisco", "town"])
    yield BadInput("cities", "a hidden file", _folder_with("._porto.yaml", b"\x00\x05\x16\x07", good), ["town"])
    yield BadInput("cities", "another ending", _folder_with("porto.yml", b"[", good), ["town"])


def _folder_with(name: str, content: bytes | Path | None, good: bytes) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from hoser_kd.common.errors import ConfigError
        from hoser_kd.config.city_names import city_files, other_files
        from hoser_kd.config.loading import load_config

        cities = folder / "config"
        cities.mkdir()
        (cities / "town.yaml").write_bytes(good)
        if isinstance(content, Path):
            (cities / name).symlink_to(cities / content)
        elif content is None:
            (cities / name).mkdir()
        else:
            (cities / name).write_bytes(content)
        found, messages = [], other_files(cities)
        for file in city_files(cities):
            try:
                found.append(load_config(file).city)
            except ConfigError as error:
                messages.append(str(error))
        assert "town" in found, messages
        if messages:
            raise ConfigError(messages[0])
        return found

    return read
