"""Map matching: GPS points to roads of a network with entry times."""

from hoser_kd.network.matching.matcher import MatchedTrips, match_trips

__all__ = ["MatchedTrips", "match_trips"]
