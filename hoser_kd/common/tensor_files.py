"""Read the files that `torch.save` writes without running code in them."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import torch

from hoser_kd.common.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


def read_tensors(file: Path) -> Any:
    """Return the content of a `torch.save` file, on the CPU: tensors and plain containers. No code in it is run.

    Raises CheckpointError if the file is missing, damaged, or holds anything else.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: no such file.")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # torch's own message recommends to load the file without protection
        raise CheckpointError(f"{file}: contains something other than weights. Nothing in it was executed.") from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: damaged or no PyTorch file: {_first_line(error)}") from None


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
