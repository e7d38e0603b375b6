"""Evaluate a teacher on trips: negative log-likelihood (NLL) of every token, and perplexity.

Shapes: n sequences, m scored sequences, P tokens and EOTs of the scored sequences, L labels (cells).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from hoser_kd.common.arrays import Float64Array, Int64Array, offsets_of, row_of_value
from hoser_kd.common.progress import Progress, silent
from hoser_kd.lmtad.model import LMTAD, half_precision
from hoser_kd.teacher.corpus import Corpus, check_corpus, length_batches
from hoser_kd.teacher.history_encoding import ready


@dataclass(frozen=True)
class SequenceNLL:
    """NLL of each token of m sequences, including EOT and a prefix, given all tokens before it."""

    rows: Int64Array
    """(m,) int64: the scored sequences, ascending; those longer than the teacher's context are left out."""
    offsets: Int64Array
    """(m + 1,) int64: sequence k has `nats[offsets[k]:offsets[k + 1]]`, for its tokens and EOT."""
    nats: Float64Array
    """(P,) float64: NLL in nats."""
    tokens: Int64Array
    """(P,) int64: the tokens."""

    @property
    def log_perplexity(self) -> Float64Array:
        """(m,) float64: mean NLL of each sequence, the anomaly score."""
        sums = np.bincount(row_of_value(self.offsets), self.nats, minlength=len(self.rows))
        return sums / np.diff(self.offsets)

    @property
    def loss(self) -> float:
        """Mean NLL in nats per token; NaN if no sequence was scored."""
        return float(self.nats.mean()) if len(self.nats) else math.nan

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; NaN if no sequence was scored."""
        return math.exp(min(self.loss, 700.0)) if len(self.nats) else math.nan

    def by_cell(self, num_labels: int) -> tuple[Float64Array, Int64Array]:
        """Return the mean NLL per cell, (L,) float64, NaN for cells without a visit, and the number of visits, (L,)."""
        inside = self.tokens < num_labels
        visits = np.bincount(self.tokens[inside], minlength=num_labels)
        sums = np.bincount(self.tokens[inside], self.nats[inside], minlength=num_labels)
        return np.where(visits > 0, sums / np.maximum(visits, 1), np.nan), visits


def score(
    model: LMTAD,
    corpus: Corpus,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    half: bool = False,
    progress: Progress = silent,
) -> SequenceNLL:
    """Return the NLL of every token of the sequences that fit the teacher's context.

    `half` uses half precision on a GPU; a CPU ignores it. Raises TrainingError if a token is not a cell.
    """
    corpus = Corpus(*corpus)
    model, config = ready(model, device), model.config
    check_corpus(corpus, config.vocab_size, None, "scored")
    rows = np.flatnonzero(corpus.lengths <= config.block_size - config.frame)
    fitting = corpus.take(rows)
    offsets = offsets_of(fitting.lengths + 1 + config.prefix_tokens)
    nats, tokens = np.zeros(offsets[-1]), np.zeros(offsets[-1], np.int64)
    batches = length_batches(fitting.lengths, batch_size)
    for done, batch in enumerate(batches, 1):
        tokens_BT = fitting.batch(batch, config)
        with torch.no_grad(), half_precision(model.device, half):
            nats_BT = model.token_nll(torch.from_numpy(tokens_BT).to(model.device)).cpu().numpy()
        row, column = np.nonzero(tokens_BT[:, 1:] != config.pad_token)
        at = offsets[batch][row] + column
        nats[at], tokens[at] = nats_BT[row, column], tokens_BT[:, 1:][row, column]
        progress("scores", done, len(batches))
    return SequenceNLL(rows, offsets, nats, tokens)
