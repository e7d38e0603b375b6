"""Token sequences for the teacher: a ragged array of cells; SOT, EOT and PAD are added per batch.

Shapes: n sequences, P tokens of all sequences, B batch, T tokens of the longest sequence including specials.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hoser_kd.common.arrays import Int64Array, row_of_value, take_rows
from hoser_kd.common.errors import StoreError, TrainingError
from hoser_kd.common.files import atomic_path
from hoser_kd.lmtad.model import LMTADConfig

_TOKENS_AT_ONCE = 1 << 22


class Corpus(NamedTuple):
    """n sequences of cells without special tokens; functions also accept a plain (offsets, tokens) pair."""

    offsets: Int64Array
    """(n + 1,) int64: sequence i is `tokens[offsets[i]:offsets[i + 1]]`."""
    tokens: Int64Array
    """(P,) int64."""

    @property
    def num_sequences(self) -> int:
        """Number n of sequences."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64Array:
        """(n,) int64: number of tokens of each sequence, without specials."""
        return np.diff(self.offsets)

    def take(self, rows: Int64Array) -> Corpus:
        """Return the sequences of these rows, in the given order."""
        offsets, at = take_rows(self.offsets, rows)
        return Corpus(offsets, self.tokens[at])

    def save(self, path: str | PathLike[str]) -> None:
        """Write one uncompressed Arrow IPC file, atomically."""
        batch = pa.record_batch({"tokens": pa.LargeListArray.from_arrays(self.offsets, pa.array(self.tokens))})
        with (
            atomic_path(path) as beside,
            pa.OSFile(str(beside), "wb") as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Corpus:
        """Memory-map a file written by `save`; arrays are read-only. Raises StoreError if it is missing or damaged."""
        if not Path(path).is_file():
            raise StoreError(f"{path}: no such file. Create the corpus first.")
        try:
            with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
                tokens = reader.get_batch(0).column("tokens")
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise StoreError(f"{path}: not a readable corpus ({error}). Create it again.") from None
        return cls(tokens.offsets.to_numpy(), tokens.values.to_numpy())

    def batch(self, rows: Int64Array, config: LMTADConfig) -> Int64Array:
        """Return SOT, t_1 … t_n, EOT of these rows, right-padded with PAD: (B, T) int64.

        With `destination_prefix`, t_n follows SOT.
        """
        offsets, at = take_rows(self.offsets, rows)
        row = row_of_value(offsets)
        lengths = np.diff(offsets)
        out = np.full((len(rows), int(lengths.max(initial=0)) + config.frame), config.pad_token, np.int64)
        out[:, 0] = config.sot_token
        first = 1 + config.prefix_tokens
        if config.destination_prefix:
            out[:, 1] = self.tokens[at][offsets[1:] - 1]
        out[row, np.arange(len(row)) - offsets[row] + first] = self.tokens[at]
        out[np.arange(len(rows)), lengths + first] = config.eot_token
        return out


def check_corpus(corpus: Corpus, vocab_size: int, block_size: int | None, name: str, frame: int = 2) -> None:
    """Raise TrainingError for the first sequence that a model with this vocabulary and block size cannot read.

    `frame`: tokens of a sequence besides those of its trip, `LMTADConfig.frame`.
    """
    num_labels = vocab_size - 3
    for first in range(0, len(corpus.tokens), _TOKENS_AT_ONCE):
        tokens = corpus.tokens[first : first + _TOKENS_AT_ONCE]
        outside = (tokens < 0) | (tokens >= num_labels)
        if not outside.any():
            continue
        at = first + int(np.argmax(outside))
        row = int(np.searchsorted(corpus.offsets, at, side="right")) - 1
        raise TrainingError(
            f"{name} sequence {row} holds token {corpus.tokens[at]}, which is out of the range of cells, 0 to "
            f"{num_labels - 1} (vocabulary {vocab_size}). Create the corpus from the grid of this vocabulary."
        )
    if block_size is not None and (corpus.lengths > block_size - frame).any():
        row = int(np.argmax(corpus.lengths > block_size - frame))
        specials = "SOT and EOT" if frame == 2 else "SOT, the destination and EOT"
        raise TrainingError(
            f"{name} sequence {row} has {corpus.lengths[row]} tokens; `teacher.block_size` "
            f"{block_size} allows {block_size - frame} besides {specials}. Increase it, or leave it out "
            "to use that of the longest sequence."
        )


def length_batches(
    lengths: Int64Array, batch_size: int, rng: np.random.Generator | None = None, window_batches: int = 64
) -> list[Int64Array]:
    """Split rows into batches of similar length, so that there is little padding.

    With `rng`, rows are shuffled and sorted by length within windows of `window_batches` batches, and the batches are
    shuffled; without one, all rows are sorted. There are always ceil(n / batch_size) batches, and each row is in one.
    """
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    window = len(order) if rng is None else window_batches * batch_size
    batches: list[Int64Array] = []
    for start in range(0, len(order), max(window, 1)):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += np.split(rows, range(batch_size, len(rows), batch_size))
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches
