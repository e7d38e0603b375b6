"""Graph layers of HOSER's road network encoder, computed only for the roads that a batch needs.

Roads are encoded by GATv2 (Brody et al., ICLR 2022) with edge attributes, zones by GCN (Kipf and Welling, ICLR 2017).
Results and parameter names equal those of PyTorch Geometric's layers of these names.

Shapes: N roads, R targets, M sources (targets and their neighbors), E edges into the targets with one self-loop
each, Z zones, h width of a vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, embedding_bag, leaky_relu_

from hoser_kd.common.arrays import ranges
from hoser_kd.hoser.step_index import distinct, to_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hoser_kd.common.arrays import Int64Array

NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class Neighborhood:
    """The edges into a subset of roads, ordered by target; indices are local to the subset."""

    host_sources: Int64Array
    """(M,) int64: `sources` on the host."""
    attribute: Tensor
    """(E, 2) float32: edge attributes."""
    sources: Tensor
    """(M,) int64: ids of the source roads, ascending; they include the targets."""
    source: Tensor
    """(E,) int64: index of each edge's source in `sources`."""
    target: Tensor
    """(E,) int64: index of each edge's target among the targets."""
    target_start: Tensor
    """(R,) int64: the first edge of each target."""
    target_in_sources: Tensor
    """(R,) int64: index of each target in `sources`."""


class IncomingEdges(nn.Module):
    """Edges of a graph grouped by target, self-loops included."""

    start: Tensor
    """(N + 1,) int64: where the edges into each node start."""
    source: Tensor
    """(E,) int64: source of each edge; the self-loop is the last of its target."""
    attribute: Tensor
    """(E, …) float32: attribute of each edge."""

    def __init__(self, edge_index: Tensor, attribute: Tensor, loop_attribute: Tensor) -> None:
        """`edge_index` (2, E) int64 of (source, target); `loop_attribute` (N, …): attributes of the self-loops."""
        super().__init__()
        num_nodes = len(loop_attribute)
        loops = torch.arange(num_nodes)
        target = torch.cat([edge_index[1], loops])
        order = torch.argsort(target, stable=True)
        start = torch.zeros(num_nodes + 1, dtype=torch.int64)
        start[1:] = torch.bincount(target, minlength=num_nodes).cumsum(0)
        self.register_buffer("start", start, persistent=False)
        self.register_buffer("source", torch.cat([edge_index[0], loops])[order], persistent=False)
        self.register_buffer("attribute", torch.cat([attribute, loop_attribute])[order], persistent=False)
        self._host_start, self._host_source = self.start.cpu().numpy(), self.source.cpu().numpy()

    def into(self, targets: Tensor | Int64Array) -> Neighborhood:
        """Return the edges into (R,) distinct, ascending targets.

        Targets on the host cost no wait for the device: the number of edges is known there.
        """
        arrays = self.host_into(targets.cpu().numpy() if isinstance(targets, Tensor) else targets)
        on_device = dict(zip(arrays, to_device([*arrays.values()], self.start.device), strict=True))
        return self.neighborhood(arrays["sources"], on_device)

    def host_into(self, targets: Int64Array) -> dict[str, Int64Array]:
        """Return the arrays of `neighborhood` on the host, by name; `targets` (R,) int64, distinct, ascending."""
        start = self._host_start[targets]
        size = self._host_start[targets + 1] - start
        at = ranges(start, size)
        sources, place = distinct(np.concatenate([self._host_source[at], targets]), len(self._host_start) - 1)
        return {
            "sources": sources,
            "source": place[: len(at)],
            "target": np.repeat(np.arange(len(targets)), size),
            "target_start": np.cumsum(size) - size,
            "target_in_sources": place[len(at) :],
            "edge": at,
        }

    def neighborhood(self, host_sources: Int64Array, arrays: Mapping[str, Tensor]) -> Neighborhood:
        """Return the edges with their attributes; `arrays`: those of `host_into` on the device of the graph."""
        others = {name: values for name, values in arrays.items() if name != "edge"}
        return Neighborhood(host_sources=host_sources, attribute=self.attribute[arrays["edge"]], **others)


def road_edges(edge_index: Tensor, attribute: Tensor, num_roads: int) -> IncomingEdges:
    """Return the road graph with self-loops, whose attribute is the mean over the road's incoming edges."""
    target = edge_index[1]
    total = attribute.new_zeros(num_roads, attribute.shape[1]).index_add_(0, target, attribute)
    count = torch.bincount(target, minlength=num_roads).clamp(min=1)
    return IncomingEdges(edge_index, attribute, total / count[:, None])


def zone_edges(edge_index: Tensor, weight: Tensor, num_zones: int) -> IncomingEdges:
    """Return the zone graph with the symmetrically normalized weights of a GCN.

    The given weights are normalized already; normalizing them again is published behavior.
    """
    loop = edge_index[0] == edge_index[1]
    loop_weight = torch.ones(num_zones)
    loop_weight[edge_index[0, loop]] = weight[loop]
    edge_index, weight = edge_index[:, ~loop], weight[~loop]
    source, target = edge_index
    scale = loop_weight.clone().index_add_(0, target, weight).pow(-0.5)
    return IncomingEdges(edge_index, scale[source] * weight * scale[target], scale * loop_weight * scale)


class GATv2Conv(nn.Module):
    """One head of GATv2 with edge attributes and self-loops."""

    def __init__(self, in_dim: int, out_dim: int, edge_dim: int) -> None:
        super().__init__()
        self.att = nn.Parameter(torch.empty(1, 1, out_dim))
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.lin_l = nn.Linear(in_dim, out_dim)
        self.lin_r = nn.Linear(in_dim, out_dim)
        self.lin_edge = nn.Linear(edge_dim, out_dim, bias=False)
        for weight in (self.att, self.lin_l.weight, self.lin_r.weight, self.lin_edge.weight):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor, edges: Neighborhood) -> Tensor:
        """Return (R, out_dim) vectors of the targets from (M, in_dim) vectors of the sources."""
        from_source = self.lin_l(x)
        from_target = self.lin_r(embedding(edges.target_in_sources, x))
        mixed: Tensor = _NeighborAttention.apply(  # type: ignore[no-untyped-call]
            from_source, from_target, self.lin_edge.weight, self.att.flatten(), edges
        )
        return mixed + self.bias


class GCNConv(nn.Module):
    """One GCN layer over normalized edges."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_dim))
        self.lin = nn.Linear(in_dim, out_dim, bias=False)
        nn.init.xavier_uniform_(self.lin.weight)

    def forward(self, x: Tensor, edges: IncomingEdges) -> Tensor:
        """Return (Z, out_dim) from (Z, in_dim)."""
        mixed = embedding_bag(
            edges.source, self.lin(x), edges.start[:-1], mode="sum", per_sample_weights=edges.attribute
        )
        return mixed + self.bias


class ConvStack(nn.Module):
    """Layers under the name `convs`, as in a published checkpoint."""

    def __init__(self, *convs: nn.Module) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)


class _NeighborAttention(torch.autograd.Function):
    """Attention over the edges of each target without storing any (E, h) array.

    score_e = att · leaky_relu(source + target + W attribute), a = softmax over the edges of a target,
    out = sum_e a_e source_e. Edges are processed in chunks that fit the processor's cache. The backward pass
    recomputes the pre-activations, which is faster than reading them back and needs a hundredth of the memory.
    """

    @staticmethod
    def forward(ctx: Any, source: Tensor, target: Tensor, weight: Tensor, att: Tensor, edges: Neighborhood) -> Tensor:
        score = source.new_empty(len(edges.source))
        for piece in _pieces(edges.source):
            z = _pre_activation(source, target, weight, edges, piece)
            score[piece] = leaky_relu_(z, NEGATIVE_SLOPE) @ att
        share = _softmax_by_target(score, edges.target, len(target))
        out = embedding_bag(edges.source, source, edges.target_start, mode="sum", per_sample_weights=share)
        ctx.save_for_backward(source, target, weight, att, share, out)
        ctx.edges = edges
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        source, target, weight, att, share, out = ctx.saved_tensors
        edges: Neighborhood = ctx.edges
        grad = grad.contiguous()
        d_source, d_target = torch.zeros_like(source), torch.zeros_like(target)
        # transposed: with two rows instead of two columns the product is six times faster
        d_weight_t, d_att = torch.zeros_like(weight.T, memory_format=torch.contiguous_format), torch.zeros_like(att)
        mean_gain = (grad * out).sum(1)
        for piece in _pieces(edges.source):
            to_source, to_target = edges.source[piece], edges.target[piece]
            grad_out = embedding(to_target, grad)
            gain = (grad_out * embedding(to_source, source)).sum(1)
            d_score = share[piece] * (gain - mean_gain[to_target])
            z = _pre_activation(source, target, weight, edges, piece)
            d_z = torch.ops.aten.leaky_relu_backward(torch.outer(d_score, att), z, NEGATIVE_SLOPE, False)
            d_att += d_score @ leaky_relu_(z, NEGATIVE_SLOPE)
            d_weight_t.addmm_(edges.attribute[piece].T, d_z)
            d_target.index_add_(0, to_target, d_z)
            d_source.index_add_(0, to_source, d_z.addcmul_(grad_out, share[piece, None]))
        return d_source, d_target, d_weight_t.T, d_att, None


def _pieces(edges: Tensor) -> list[slice]:
    size = 4096 if edges.device.type == "cpu" else 1 << 20
    return [slice(start, start + size) for start in range(0, len(edges), size)]


def _pre_activation(source: Tensor, target: Tensor, weight: Tensor, edges: Neighborhood, piece: slice) -> Tensor:
    z = embedding(edges.source[piece], source)
    z += embedding(edges.target[piece], target)
    return z.addmm_(edges.attribute[piece], weight.T)


def _softmax_by_target(score: Tensor, target: Tensor, num_targets: int) -> Tensor:
    top = score.new_full((num_targets,), -torch.inf).scatter_reduce_(0, target, score, "amax")
    share = (score - top[target]).exp_()
    total = score.new_zeros(num_targets).index_add_(0, target, share)
    return share.div_(total[target])
