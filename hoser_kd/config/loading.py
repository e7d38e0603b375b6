"""Read settings from YAML; errors name the file, the line, the key and the closest known key.

`hoser_kd.config.schema` joins the sections, each of which has a module.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from hoser_kd.common.arguments import check_path
from hoser_kd.common.errors import ConfigError
from hoser_kd.config.city_names import city_files
from hoser_kd.config.messages import explain, nearest
from hoser_kd.config.schema import CityConfig
from hoser_kd.config.yaml_limits import read_text, require_small_tree
from hoser_kd.config.yaml_scalars import read_plain_scalars

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike


def load_config(path: str | PathLike[str]) -> CityConfig:
    """Read and validate `config/<city>.yaml`.

    Raises ConfigError with the file, the line, the key, the problem and the closest known key, TypeError if `path` is
    no path.
    """
    check_path("path", path, "load_config('config/porto.yaml')")
    file = Path(path)
    tree, root = read_tree(file)
    if tree.setdefault("city", file.stem) != file.stem:
        raise ConfigError(f"{file}: `city: {tree['city']}` does not match the file's name. Rename one of the two.")
    try:
        return CityConfig.model_validate(expand_environment(tree, file))
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, CityConfig, str(file), partial(_line, root)))) from None


def load_city(city: str, folder: Path) -> CityConfig:
    """Read and validate `<folder>/<city>.yaml`.

    Raises ConfigError like `load_config`; for a missing file it also lists the cities of the folder.
    """
    file = folder / f"{city}.yaml"
    if file.is_file():
        return load_config(file)
    cities = [path.stem for path in city_files(folder)]
    known = f"Cities in {folder.absolute()}: {', '.join(cities) or 'none'}."
    raise ConfigError(
        f"{file}: no such file.{nearest(city, cities)} {known} Set HOSER_KD_CONFIG to read another folder."
    )


def with_changes(config: CityConfig, changes: Mapping[str, Any]) -> CityConfig:
    """Return a copy of the settings with changes such as `{"distill.lambda_kl": 0.1}`.

    Raises ConfigError for a value that would be invalid in YAML too.
    """
    try:
        return CityConfig.model_validate(changed(config.model_dump(), changes))
    except ValidationError as error:
        raise ConfigError(f"for this run: {' '.join(explain(error, CityConfig))}") from None


def dump_config(config: CityConfig) -> str:
    """Return all settings, including defaults, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Loader that rejects duplicate keys, which PyYAML accepts silently."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in keys:
            raise ConfigError(
                f"{key_node.start_mark.name}, line {key_node.start_mark.line + 1}: `{key}` is given twice. Remove one."
            )
        keys.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
read_plain_scalars(_UniqueKeyLoader)


def read_tree(file: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    """Return the parsed sections of a YAML file and its root node, which holds line numbers.

    Raises ConfigError if the file does not exist, with the closest file name, is a folder, or is not valid YAML.
    """
    if not file.is_file():
        raise ConfigError(_no_file(file))
    try:
        loader = _UniqueKeyLoader(read_text(file))
        loader.name = str(file)
        root = loader.get_single_node()
        require_small_tree(root, file)
        tree = loader.construct_document(root) if root is not None else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not readable as YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{file}: it is nested too deeply to be settings.") from None
    except TypeError:
        raise ConfigError(f"{file}: a list or a section is used as a key. Keys are words.") from None
    except ValueError as error:  # such as a number of 5,000 digits
        raise ConfigError(f"{file}: a value cannot be read: {error}.") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: the top level must be sections such as `source:` and `student:`.")
    return tree, root


def _no_file(file: Path) -> str:
    """Return the message about a file that does not exist, with the one that is probably meant."""
    if file.is_dir():
        inside = ", ".join(str(path) for path in sorted(file.glob("*.yaml")))
        return f"{file}: a folder, not a file. Give a city's YAML file{f': {inside}' if inside else ''}."
    city = Path(os.environ.get("HOSER_KD_CONFIG") or "config") / f"{file.stem}.yaml"
    if city.is_file() and file.suffix in ("", ".yaml", ".yml"):
        return f"{file}: no such file. Did you mean `{city}`?"
    return f"{file}: no such file.{nearest(file.name, (path.name for path in file.parent.glob('*.yaml')))}"


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def expand_environment(value: Any, file: Path) -> Any:
    """Replace `${NAME}` and `${NAME:-default}` by environment variables in all strings of the tree."""
    if isinstance(value, dict):
        return {key: expand_environment(entry, file) for key, entry in value.items()}
    if isinstance(value, list):
        return [expand_environment(entry, file) for entry in value]
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        name, default = match.groups()
        value = os.environ.get(name, default)
        if value is None:
            raise ConfigError(f"{file}: environment variable {name} is not set. Set it, or write ${{{name}:-default}}.")
        return value

    return _VARIABLE.sub(one, value)


def changed(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Set values in a nested dict of settings, in place, by keys such as `distill.lambda_kl`; return the dict."""
    for place, value in changes.items():
        *sections, key = place.split(".")
        section = tree
        for name in sections:
            section = section[name]
        section[key] = value
    return tree


def _line(root: yaml.Node | None, keys: list[str]) -> str:
    node, line = root, 0
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        for key_node, value_node in node.value:
            if key_node.value == key:
                node, line = value_node, key_node.start_mark.line + 1
                break
        else:
            break
    return f", line {line}" if line else ""
