"""LM-TAD, the teacher: a causal language model over the grid cells of trips (Mbuya et al., SIGSPATIAL 2024).

The architecture is GPT-2's: pre-norm blocks, learned positions, tied input and output embedding. Parameter names are
the published ones, so published weights load unchanged.

Shapes: B batch, T tokens, V vocabulary, D width (`n_embd`), H heads, L tokens in a cache.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear, scaled_dot_product_attention

from hoser_kd.common.errors import ConfigError

NUM_SPECIALS = 3
"""PAD, EOT and SOT: the last three tokens of the vocabulary, in this order."""
SINUSOIDAL_POSITIONS = 5000
"""Rows of the position table of models with `integer_poe`."""
LOGITS_AT_ONCE = 1 << 24
"""Logits per call of the output head if they are reduced right away: 64 MiB of float32."""
TRAINED_AT_ONCE = 256
"""Rows per chunk of the training loss on a CPU."""


@dataclass(frozen=True)
class LMTADConfig:
    """Sizes of a teacher; field names are those of the published checkpoints."""

    block_size: int
    """Maximum length of a sequence, including special tokens."""
    vocab_size: int
    """V: labels of the cells and the three special tokens."""
    n_layer: int = 8
    """Transformer blocks."""
    n_head: int = 12
    """Attention heads."""
    n_embd: int = 768
    """D: width of a token's vector."""
    dropout: float = 0.0
    """Dropout rate in training."""
    bias: bool = False
    """Biases in linear layers and layer norms."""
    integer_poe: bool = False
    """Sinusoidal positions as in the published code: along the batch, so the order of tokens is nearly lost."""
    destination_prefix: bool = False
    """The token of a trip's last road stands between SOT and its first token; not in the published model."""

    def __post_init__(self) -> None:
        """Validate the sizes."""
        sizes = {name: getattr(self, name) for name in ("block_size", "n_layer", "n_head", "n_embd")}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"LM-TAD: {name} is {size}; it must be at least 1.")
        if self.vocab_size <= NUM_SPECIALS:
            raise ConfigError(
                f"LM-TAD: vocab_size is {self.vocab_size}; it must be at least 4, for PAD, EOT, SOT and one cell."
            )
        if self.n_embd % self.n_head:
            raise ConfigError(f"LM-TAD: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}.")

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens between SOT and the first token of a trip: 1 with `destination_prefix`, else 0."""
        return int(self.destination_prefix)

    @property
    def frame(self) -> int:
        """Number of tokens of a sequence besides those of its trip: SOT, EOT and the prefix."""
        return 2 + self.prefix_tokens

    def fields(self) -> dict[str, Any]:
        """Return the fields as checkpoints and digests hold them; an option that is off is left out."""
        return {name: value for name, value in asdict(self).items() if name != "destination_prefix" or value}

    @property
    def num_labels(self) -> int:
        """Number of cell tokens, 0 … V-4."""
        return self.vocab_size - NUM_SPECIALS

    @property
    def pad_token(self) -> int:
        """PAD: right padding of a batch, ignored by the loss."""
        return self.vocab_size - 3

    @property
    def eot_token(self) -> int:
        """EOT: ends a trip."""
        return self.vocab_size - 2

    @property
    def sot_token(self) -> int:
        """SOT: begins a trip."""
        return self.vocab_size - 1


class KeyValueCache:
    """Keys and values of past tokens, so that only new tokens are computed."""

    def __init__(
        self, config: LMTADConfig, batch_size: int, capacity: int, device: torch.device, half: bool = False
    ) -> None:
        shape = (config.n_layer, batch_size, config.n_head, capacity, config.n_embd // config.n_head)
        self.half = half and device.type == "cuda"
        dtype = torch.float16 if self.half else torch.float32
        # memory that is not written yet is not read either, and setting it to 0 takes as long as some tokens
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.length = 0
        """L: tokens in the cache."""

    @property
    def capacity(self) -> int:
        """Maximum number of tokens."""
        return self.keys.shape[3]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D/H) keys and values of one layer; return those of all L+T tokens."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def take(self, rows: Tensor) -> None:
        """Keep these sequences of the batch only, (rows,) int64, in the given order."""
        self.keys, self.values = (_rows_of(part, rows, self.length) for part in (self.keys, self.values))


def _rows_of(part: Tensor, rows: Tensor, length: int) -> Tensor:
    """Return some sequences of keys or values, without copying the room for later tokens."""
    layers, _, heads, capacity, width = part.shape
    taken = part.new_empty(layers, len(rows), heads, capacity, width)
    taken[..., :length, :] = part[:, rows, :, :length]
    return taken


class _Attention(nn.Module):
    def __init__(self, config: LMTADConfig, layer: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)
        self.n_head, self.dropout, self.layer = config.n_head, config.dropout, layer

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None, last_only: bool) -> Tensor:
        width = x_BTD.shape[2]
        if last_only:
            weight, bias = self.c_attn.weight, self.c_attn.bias
            q_BTD = linear(x_BTD[:, -1:], weight[:width], None if bias is None else bias[:width])
            kv_BTD = linear(x_BTD, weight[width:], None if bias is None else bias[width:])
            k_BTD, v_BTD = torch.split(kv_BTD, width, dim=2)
        else:
            q_BTD, k_BTD, v_BTD = torch.split(self.c_attn(x_BTD), width, dim=2)
        query, key, value = self._heads(q_BTD), self._heads(k_BTD), self._heads(v_BTD)
        past = 0
        if cache is not None:
            past = cache.length
            key, value = cache.extend(self.layer, key, value)
        num_queries, num_keys = query.shape[2], key.shape[2]
        mask = None
        if past and num_queries > 1:
            mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=key.device).tril(num_keys - num_queries)
        out = scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and num_queries > 1,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.resid_dropout(self.c_proj(out.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]

    def _heads(self, x_BTD: Tensor) -> Tensor:
        batch, length, width = x_BTD.shape
        return x_BTD.view(batch, length, self.n_head, width // self.n_head).transpose(1, 2)


class _Mlp(nn.Module):
    def __init__(self, config: LMTADConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.dropout(self.c_proj(gelu(self.c_fc(x_BTD))))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, config: LMTADConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = _Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = _Mlp(config)

    def forward(self, x_BTD: Tensor, cache: KeyValueCache | None = None, last_only: bool = False) -> Tensor:
        rest = x_BTD[:, -1:] if last_only else x_BTD
        x_BTD = rest + self.attn(self.ln_1(x_BTD), cache, last_only)
        return x_BTD + self.mlp(self.ln_2(x_BTD))  # type: ignore[no-any-return]


class _SinusoidalPositions(nn.Module):
    """The position table of `integer_poe` models."""

    pe: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        position = torch.arange(SINUSOIDAL_POSITIONS).unsqueeze(1)
        frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
        table = torch.zeros(SINUSOIDAL_POSITIONS, 1, width)
        table[:, 0, 0::2] = torch.sin(position * frequency)
        table[:, 0, 1::2] = torch.cos(position * frequency)[:, : width // 2]
        self.register_buffer("pe", table)

    def forward(self, positions_T: Tensor) -> Tensor:
        # The published code indexes the table by the row in the batch instead of the position in the sequence.
        # In a batch of one, row 0 is added at all positions; here, that holds for every sequence.
        return self.pe[0].expand(len(positions_T), -1)


class _Transformer(nn.Module):
    def __init__(self, config: LMTADConfig) -> None:
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = (
            _SinusoidalPositions(config.n_embd)
            if config.integer_poe
            else nn.Embedding(config.block_size, config.n_embd)
        )
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(_Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)


class LMTAD(nn.Module):
    """Language model over grid tokens; a sequence is SOT, t_1 … t_n, EOT, right-padded with PAD.

    With `destination_prefix`, it is SOT, t_n, t_1 … t_n, EOT.

    Attention is causal, so right padding has no effect on the tokens before it.
    """

    def __init__(self, config: LMTADConfig) -> None:
        """Initialize the weights as GPT-2 does (normal, standard deviation 0.02); warns for `integer_poe`."""
        super().__init__()
        if config.integer_poe:
            warnings.warn(
                "LM-TAD with integer_poe: in the published code, the scores of a sequence depend on its row in the "
                "batch. Here they are those of a batch of one, which barely depend on the order of the tokens.",
                stacklevel=2,
            )
        self.config = config
        self.transformer = _Transformer(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()
        self._initialize()

    def tie(self) -> None:
        """Tie the output embedding to the input embedding."""
        self.lm_head.weight = self.transformer.wte.weight

    def _initialize(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() >= 2:
                # Projections into the residual stream are scaled so that its variance does not depend on the depth.
                deep = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer) if deep else 0.02)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.lm_head.weight.device

    def num_parameters(self) -> int:
        """Return the number of weights; the tied embedding counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits of the next token, (B, T, V), after each of the (B, T) int64 tokens."""
        return self.lm_head(self.hidden(tokens_BT))  # type: ignore[no-any-return]

    def hidden(self, tokens_BT: Tensor, cache: KeyValueCache | None = None, last_only: bool = False) -> Tensor:
        """Return the final hidden states, (B, T, D); a token's logit is its embedding times the hidden state.

        With a `cache`, the tokens follow those in the cache and are appended to it. `last_only` returns (B, 1, D) of
        the last token at lower cost. Raises ValueError if the sequence is longer than `block_size` or the cache.
        """
        past = 0 if cache is None else cache.length
        end = past + tokens_BT.shape[1]
        if end > self.config.block_size or (cache is not None and end > cache.capacity):
            room = self.config.block_size if cache is None else min(self.config.block_size, cache.capacity)
            raise ValueError(f"a sequence of {end} tokens is too long: at most {room} fit")
        positions_T = torch.arange(past, end, device=tokens_BT.device)
        transformer = self.transformer
        x_BTD = transformer.drop(transformer.wte(tokens_BT) + transformer.wpe(positions_T))
        for layer, block in enumerate(transformer.h):
            x_BTD = block(x_BTD, cache, last_only and layer == self.config.n_layer - 1)
        if cache is not None:
            cache.length = end
        return transformer.ln_f(x_BTD[:, -1:] if last_only else x_BTD)  # type: ignore[no-any-return]

    def token_nll(self, tokens_BT: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats of each token given the ones before it: (B, T-1), 0 at PAD."""
        targets = tokens_BT[:, 1:]
        kept = targets != self.config.pad_token
        hidden_SD = self.hidden(tokens_BT[:, :-1])[kept]
        if torch.is_grad_enabled():
            nats = self._cross_entropy(hidden_SD, targets[kept])
        else:
            rows = self._rows_at_once()
            parts = zip(torch.split(hidden_SD, rows), torch.split(targets[kept], rows), strict=True)
            nats = torch.cat([self._cross_entropy(hidden, target) for hidden, target in parts])
        out = nats.new_zeros(targets.shape)
        out[kept] = nats
        return out

    def _rows_at_once(self) -> int:
        """Return the rows per call of the output head if only reductions of the logits are kept.

        On a CPU at most D: fewer rows read the head's weights too often, and the logits of more exceed the cache.
        """
        most = max(1, LOGITS_AT_ONCE // self.config.vocab_size)
        return min(most, self.config.n_embd) if self.device.type == "cpu" else most

    def _cross_entropy(self, hidden_SD: Tensor, target_S: Tensor) -> Tensor:
        return cross_entropy(self.lm_head(hidden_SD).float(), target_S, reduction="none")

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Return the training loss, a scalar: mean NLL of the tokens after the first, without PAD."""
        in_parts = getattr(torch.nn.functional, "linear_cross_entropy", None)
        if in_parts is not None and torch.is_grad_enabled() and self.device.type == "cpu":
            # (S, V) logits exceed a CPU's cache. Computing logits and gradients chunk by chunk takes half the time;
            # torch provides it since 2.13.
            kept = tokens_BT[:, 1:] != self.config.pad_token
            hidden_SD, target_S = self.hidden(tokens_BT[:, :-1])[kept], tokens_BT[:, 1:][kept]
            options = nn.LinearCrossEntropyOptions(batch_chunk_size=TRAINED_AT_ONCE)
            loss: Tensor = in_parts(hidden_SD, self.lm_head.weight, target_S, options=options)
            return loss
        return self.token_nll(tokens_BT).sum() / (tokens_BT[:, 1:] != self.config.pad_token).sum()

    @torch.no_grad()
    def log_perplexity(self, tokens_BT: Tensor) -> Tensor:
        """Return (B,): mean NLL of a sequence's tokens after SOT, including EOT (the anomaly score)."""
        return self.token_nll(tokens_BT).sum(1) / (tokens_BT[:, 1:] != self.config.pad_token).sum(1)

    @torch.no_grad()
    def predict_next_distribution(
        self,
        history_tokens: Tensor | npt.NDArray[np.integer] | Sequence[int],
        window: int | None = None,
        half: bool = False,
    ) -> Tensor:
        """Return the probabilities of the token after a history, (V,) float32.

        `window` keeps the last W tokens, at positions 0 … W-1, SOT only if it is one of them; default: the last
        `block_size` tokens. `half` uses half precision on a GPU; a CPU ignores it. Raises ValueError for an empty
        history or a window below 1.
        """
        history_T = torch.as_tensor(history_tokens, dtype=torch.int64, device=self.device)
        if history_T.dim() != 1 or len(history_T) == 0:
            raise ValueError("history_tokens must be a sequence of at least one token: start it with SOT")
        if window is not None and window < 1:
            raise ValueError(f"window is {window}; it must be at least 1")
        keep = min(window or self.config.block_size, self.config.block_size)
        with half_precision(self.device, half):
            hidden_BTD = self.hidden(history_T[-keep:].unsqueeze(0), last_only=True)
        return linear(hidden_BTD[0, 0].float(), self.lm_head.weight.float()).softmax(0)

    def start_cache(self, batch_size: int = 1, capacity: int | None = None, half: bool = False) -> KeyValueCache:
        """Return an empty cache for sequences of up to `capacity` tokens (default: `block_size`).

        `half` stores and computes in half precision on a GPU; a CPU ignores it.
        """
        return KeyValueCache(
            self.config, batch_size, min(capacity or self.config.block_size, self.config.block_size), self.device, half
        )

    @torch.no_grad()
    def extend_next_distribution(self, tokens_BT: Tensor, cache: KeyValueCache) -> Tensor:
        """Append (B, T) tokens to the cache; return the probabilities of the next token, (B, V) float32.

        Equals `predict_next_distribution` of all tokens so far, but only the new tokens are computed. It does not
        apply to a sliding window, which changes the positions of all tokens.
        """
        with half_precision(self.device, cache.half):
            hidden_BD = self.hidden(tokens_BT, cache, last_only=True)[:, 0]
        return linear(hidden_BD.float(), self.lm_head.weight.float()).softmax(1)


def half_precision(device: torch.device, enabled: bool = True) -> AbstractContextManager[object]:
    """Return a context for float16 matrix products on a GPU; sums, norms and the residual stream stay float32.

    On a CPU it has no effect.
    """
    return torch.autocast("cuda", torch.float16) if enabled and device.type == "cuda" else nullcontext()
