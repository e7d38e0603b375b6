"""Map matching: GPS points to roads of a network with entry times.

Names are imported on first use (PEP 562), so that worker processes do not load geopandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hoser_kd.network.matching.matcher import MatchedTrips as MatchedTrips
    from hoser_kd.network.matching.matcher import TripMatcher as TripMatcher
    from hoser_kd.network.matching.matcher import match_trips as match_trips

__all__ = ["MatchedTrips", "TripMatcher", "match_trips"]


def __getattr__(name: str) -> Any:
    """Import a name of `matcher` on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hoser_kd.network.matching import matcher

    return getattr(matcher, name)
