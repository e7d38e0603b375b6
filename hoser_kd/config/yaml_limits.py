"""Limits of a YAML file of settings: its encoding, its size, and what its aliases expand to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from hoser_kd.common.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 1 << 20
_MOST_NODES = 100_000


def read_text(file: Path) -> str:
    """Return the text of a file. Raises ConfigError if it cannot be read, is not UTF-8, or is larger than 1 MiB."""
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}).") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{file}: larger than 1 MiB, so it is not a file of settings.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        kind = "it is UTF-16" if utf16 else f"byte 0x{content[error.start]:02x} in line {line}"
        raise ConfigError(f"{file}: not encoded in UTF-8 ({kind}). Save it as UTF-8.") from None


def require_small_tree(root: yaml.Node | None, file: Path) -> None:
    """Raise ConfigError if a document has more than 100,000 values after its aliases are expanded.

    A few lines with aliases of aliases expand to billions of values ("billion laughs").
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known == 0:
            raise ConfigError(f"{file}, line {node.start_mark.line + 1}: an alias contains itself. Remove it.")
        if known is None:
            sizes[id(node)] = 0
            known = 1
            if isinstance(node, yaml.MappingNode):
                known += sum(size(key) + size(value) for key, value in node.value)
            elif isinstance(node, yaml.SequenceNode):
                known += sum(size(value) for value in node.value)
            sizes[id(node)] = known
        return known

    if root is not None and size(root) > _MOST_NODES:
        raise ConfigError(
            f"{file}: it has more than {_MOST_NODES:,} values after its aliases are expanded. Write out what is needed."
        )
