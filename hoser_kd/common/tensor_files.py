"""Read the files that `torch.save` writes without running code in them, and refuse damaged and oversized content.

Such a file is a zip archive. torch itself reads neither its checksums nor, when it maps the file into memory, whether
an entry is compressed: a flipped bit or a compressed entry becomes other weights without an error.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hoser_kd.common.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read_tensors(file: Path) -> Any:
    """Return the content of a `torch.save` file, on the CPU: tensors and plain containers. No code in it is run.

    Raises CheckpointError if the file is missing, damaged, or holds anything else.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file.")
    check_archive(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message recommends to load the file without protection
        raise CheckpointError(f"{file}: contains something other than weights. Nothing in it was executed.") from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: damaged or no PyTorch file: {_first_line(error)}") from None
    if isinstance(content, dict):
        check_sizes(file, content)
    return content


def check_archive(file: Path) -> None:
    """Raise CheckpointError if a zip archive is damaged or is not as `torch.save` writes it; others pass.

    Reads the file once, in pieces. Files from before torch 1.6 are no archives and have no checksums.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            packed = next((entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None)
            # a compressed entry is refused before anything is unpacked
            damaged = archive.testzip() if packed is None else None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{file}: damaged ({_first_line(error)}). Copy or download it again.") from None
    if packed is not None:
        raise CheckpointError(
            f"{file}: its entry {packed} is compressed, which torch.save never does. Save it again with torch.save."
        )
    if len(set(names)) != len(names):
        raise CheckpointError(f"{file}: it has two entries of the same name. Save it again with torch.save.")
    if damaged is not None:
        raise CheckpointError(
            f"{file}: damaged: the content of {damaged} differs from its checksum. Copy or download it again."
        )


def check_sizes(file: Path, tensors: Mapping[Any, Any]) -> None:
    """Raise CheckpointError if tensors have more values than the file can hold, so that a copy would be a memory bomb.

    A tensor may show a few stored values as billions (stride 0), and many tensors may show the same values.
    """
    sizes = {name: each.numel() * each.element_size() for name, each in tensors.items() if isinstance(each, Tensor)}
    # tied weights are stored once and named twice
    limit = 2 * file.stat().st_size
    if sum(sizes.values()) > limit:
        largest = max(sizes, key=lambda name: sizes[name])
        raise CheckpointError(
            f"{file}: its tensors claim {sum(sizes.values()):,} bytes (`{largest}`: shape "
            f"{tuple(tensors[largest].shape)}), but the file has {file.stat().st_size:,}. It was not loaded."
        )


def require_real_numbers(file: Path, name: str, tensor: torch.Tensor) -> None:
    """Raise CheckpointError unless a tensor holds plain real numbers: a cast would drop imaginary parts silently."""
    if tensor.is_complex():
        kind = f"complex numbers ({tensor.dtype})"
    elif tensor.is_quantized:
        kind = f"quantized numbers ({tensor.dtype})"
    elif tensor.layout != torch.strided:
        kind = f"a sparse tensor ({tensor.layout})"
    elif tensor.is_meta:
        kind = "no values (device meta)"
    else:
        return
    raise CheckpointError(f"{file}: `{name}` holds {kind}, not dense real numbers. Export the weights in float32.")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
