"""A flipped bit, as a disk or a cable may leave it: the file keeps its size."""

from __future__ import annotations

from pathlib import Path


def flip_bit(file: Path) -> None:
    """Flip the last bit of a byte in the middle of a file: of a digit in text, or of a value."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    digits = [at for at in range(middle, len(content)) if chr(content[at]).isdigit()] if file.suffix == ".json" else []
    content[digits[0] if digits else middle] ^= 1
    file.write_bytes(content)
