"""Compiled loops of the search: frontier, best costs and references to nodes of all active trips.

Every trip has a place. Its frontier is a binary heap in a row of `heap_…`, the roads it has seen are a hash table with
open addressing in a row of `seen_…`. Both rows are a power of two long and double when a trip fills them.

Shapes: A places, H entries of a frontier, R entries of a table of roads, M slots of the path tree, B trips that expand
a node in a round, C maximum number of candidates, N roads.
"""

from __future__ import annotations

import numpy as np

from hoser_kd.common.numba_jit import compiled

EXPAND, ARRIVED, STOPPED = 0, 1, 2
"""What a trip does in a round: expand a node, end at its destination, or end without it."""
NO_SLOT = -1


@compiled
def find(roads, road):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the entry of a road in a table of roads, or the empty one (-1) where it belongs."""
    last = len(roads) - 1
    # Fibonacci hashing spreads consecutive ids
    at = np.int64((np.uint64(road) * np.uint64(11400714819323198485)) >> np.uint64(32)) & last
    while roads[at] >= 0 and roads[at] != road:
        at = (at + 1) & last
    return at


@compiled
def sift_down(cost, order, heap, at, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Move the entry `at` down until no child is before it; `heap` (H, 3) moves with `cost` and `order` (H,)."""
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        other = child + 1
        if other < size and (cost[other] < cost[child] or (cost[other] == cost[child] and order[other] < order[child])):
            child = other
        if cost[at] < cost[child] or (cost[at] == cost[child] and order[at] < order[child]):
            return
        swap(cost, order, heap, at, child)
        at = child


@compiled
def swap(cost, order, heap, one, other):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Exchange two entries of a frontier."""
    cost[one], cost[other] = cost[other], cost[one]
    order[one], order[other] = order[other], order[one]
    for part in range(heap.shape[1]):
        heap[one, part], heap[other, part] = heap[other, part], heap[one, part]


@compiled
def push(cost, order, heap, size, entry):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add an entry (cost, order, road, time, parent) to a frontier of this size."""
    cost[size], order[size] = entry[0], entry[1]
    heap[size, 0], heap[size, 1], heap[size, 2] = entry[2], entry[3], entry[4]
    at = size
    while at > 0:
        above = (at - 1) // 2
        if cost[above] < cost[at] or (cost[above] == cost[at] and order[above] < order[at]):
            return
        swap(cost, order, heap, at, above)
        at = above


@compiled
def next_nodes(places, trips, frontier, seen, node_cost, node, outcome):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Take the cheapest unexpanded node from the frontier of each of these places.

    Fills, for each place, `node_cost` (B,), `node` (B, 3) of road, time and parent, and `outcome` (B,).
    """
    heap_cost, heap_order, heap, heap_size = frontier
    seen_road, seen_expanded = seen[0], seen[2]
    destination, expansions, max_steps = trips[0], trips[1], trips[2]
    for i in range(len(places)):
        a = places[i]
        outcome[i] = STOPPED
        while heap_size[a] > 0 and expansions[a] < max_steps[a]:
            node_cost[i] = heap_cost[a, 0]
            node[i, 0], node[i, 1], node[i, 2] = heap[a, 0, 0], heap[a, 0, 1], heap[a, 0, 2]
            heap_size[a] -= 1
            swap(heap_cost[a], heap_order[a], heap[a], 0, heap_size[a])
            sift_down(heap_cost[a], heap_order[a], heap[a], 0, heap_size[a])
            road = node[i, 0]
            if road == destination[a]:
                outcome[i] = ARRIVED
                break
            at = find(seen_road[a], road)
            if not seen_expanded[a, at]:
                # the entry becomes a child of the same parent, so the references to the parent do not change
                seen_expanded[a, at] = True
                outcome[i] = EXPAND
                break


@compiled
def release(slot, references, owner, parent, freed, count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Drop one reference to a slot; without references it is freed, and so is its reference to its parent.

    Freed slots follow the first `count` of `freed`; returns their new number.
    """
    while slot >= 0:
        references[slot] -= 1
        if references[slot] > 0:
            break
        owner[slot] = NO_SLOT
        freed[count] = slot
        count += 1
        slot = parent[slot]
    return count


@compiled
def update(places, trips, frontier, seen, nodes, parents, result, node_cost, node, to_go, guided):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Give each place the successors of its expanded node; returns the slots that are no longer needed.

    `guided` (A,): 0 costs as given, 1 reduced by the bound `to_go` (A, N), 2 the bound alone, to finish the trip.
    """
    heap_cost, heap_order, heap, heap_size = frontier
    seen_road, seen_best, seen_expanded, seen_parent, seen_count = seen
    expansions, entered, nearest_m, nearest_slot = trips[1], trips[3], trips[4], trips[5]
    references, owner = nodes
    slots, away_m, candidates, costs, seconds = result
    freed = np.empty(len(parents), np.int64)
    count = 0
    for i in range(len(places)):
        a, slot = places[i], slots[i]
        expansions[a] += 1
        owner[slot] = a
        references[slot] = 1  # held until the end of this round
        if away_m[i] < nearest_m[a]:
            references[slot] += 1
            count = release(nearest_slot[a], references, owner, parents, freed, count)
            nearest_m[a], nearest_slot[a] = away_m[i], slot
        for c in range(candidates.shape[1]):
            road = candidates[i, c]
            if road < 0:
                continue
            cost = np.float64(costs[i, c])
            if guided[a]:
                gain = to_go[a, road] - to_go[a, node[i, 0]]
                # reduced costs are not negative, except for rounding; the finish orders nodes by the bound alone
                cost = gain if guided[a] == 2 else max(cost + gain, 0.0)
            total = node_cost[i] + cost
            at = find(seen_road[a], road)
            if seen_road[a, at] < 0:
                if not total < np.inf:
                    continue
                seen_road[a, at], seen_best[a, at], seen_parent[a, at] = road, np.inf, NO_SLOT
                seen_expanded[a, at] = False
                seen_count[a] += 1
            if total < seen_best[a, at]:
                seen_best[a, at] = total
                entry = (total, entered[a], road, node[i, 1] + seconds[i, c], slot)
                push(heap_cost[a], heap_order[a], heap[a], heap_size[a], entry)
                heap_size[a] += 1
                entered[a] += 1
                if not seen_expanded[a, at]:  # `next_nodes` skips the entries of expanded roads
                    # only the cheapest entry of a road holds a reference
                    references[slot] += 1
                    count = release(seen_parent[a, at], references, owner, parents, freed, count)
                    seen_parent[a, at] = slot
        count = release(slot, references, owner, parents, freed, count)
    return freed[:count]


@compiled
def begin_finish(a, frontier, seen, to_go):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Order the frontier of place `a` by the costs to go, (N,), of its unexpanded roads, and forget all other costs."""
    heap_cost, heap_order, heap, heap_size = frontier
    seen_road, seen_best, seen_expanded = seen[0], seen[1], seen[2]
    kept = 0
    for at in range(heap_size[a]):
        road = heap[a, at, 0]
        entry = find(seen_road[a], road)
        # of several entries of a road, only the cheapest has a path that is still stored
        if np.isfinite(to_go[road]) and not seen_expanded[a, entry] and heap_cost[a, at] == seen_best[a, entry]:
            heap_cost[a, kept], heap_order[a, kept] = to_go[road], heap_order[a, at]
            for part in range(heap.shape[2]):
                heap[a, kept, part] = heap[a, at, part]
            kept += 1
    heap_size[a] = kept
    seen_best[a, :] = np.inf
    for at in range(kept):
        seen_best[a, find(seen_road[a], heap[a, at, 0])] = heap_cost[a, at]
    for at in range(kept // 2 - 1, -1, -1):
        sift_down(heap_cost[a], heap_order[a], heap[a], at, kept)


@compiled
def widened(seen_road, old, new):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Enter the rows of tables of roads into longer ones; `old` and `new`: (best, expanded, parent), (A, R) each."""
    road = np.full(new[0].shape, -1, np.int64)
    for a in range(len(seen_road)):
        for at in range(seen_road.shape[1]):
            if seen_road[a, at] >= 0:
                to = find(road[a], seen_road[a, at])
                road[a, to] = seen_road[a, at]
                new[0][a, to], new[1][a, to], new[2][a, to] = old[0][a, at], old[1][a, at], old[2][a, at]
    return road
