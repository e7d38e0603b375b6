"""Numbers in YAML, read as they look.

PyYAML follows YAML 1.1, which reads `1:30` as 90, `0100` as 64, `0x16` as 22 and `1_000` as 1000. Settings accept
decimal numbers only; everything else that YAML 1.1 takes for a number is an error with its line. Dates stay text.
"""

from __future__ import annotations

import re

import yaml

from hoser_kd.common.errors import ConfigError

_INTEGER = re.compile(r"[-+]?(0|[1-9]\d{0,17})")
_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def read_plain_scalars(loader: type[yaml.SafeLoader]) -> None:
    """Make a loader class refuse numbers that are not decimal, and read dates as text."""
    loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
    loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
    loader.add_constructor("tag:yaml.org,2002:binary", _refuse_binary)
    loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_text)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    if not _INTEGER.fullmatch(str(node.value)):
        raise ConfigError(_message(node, loader.construct_yaml_int))
    return int(node.value)


def _construct_text(_: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(node.value)


def _construct_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    if not _FLOAT.fullmatch(str(node.value)):
        raise ConfigError(_message(node, loader.construct_yaml_float))
    return float(loader.construct_yaml_float(node))


def _refuse_binary(_: yaml.SafeLoader, node: yaml.Node) -> None:
    raise ConfigError(
        f"{node.start_mark.name}, line {node.start_mark.line + 1}: binary data is no setting. Write text."
    )


def _message(node: yaml.ScalarNode, read: object) -> str:
    """Return the message about a number that YAML 1.1 reads as another one."""
    place = f"{node.start_mark.name}, line {node.start_mark.line + 1}: `{str(node.value)[:40]}`"
    if len(str(node.value)) > 18:
        return f"{place} has too many digits. Write a number below 10^18, or quote it if it is text."
    try:
        value = read(node)  # type: ignore[operator]
    except (ValueError, IndexError):
        return f"{place} is not a decimal number. Write it in decimal digits, or quote it if it is text."
    return f"{place} is read as {value} by YAML. Write it in decimal digits, or quote it if it is text."
