"""GCJ-02, the datum of Chinese maps and of GPS data released by Chinese companies, to WGS 84.

GCJ-02 shifts points of mainland China by 300 to 700 m, by a smooth function of the place (an ellipsoid of Krasovsky
1940, and sums of sines). It has no inverse in closed form; the fixed point of the shift is exact to millimeters after a
few iterations.
"""

from __future__ import annotations

import numpy as np

from hoser_kd.common.arrays import Float64Array

_AXIS_M = 6_378_245.0
_ECCENTRICITY_2 = 0.006_693_421_622_965_943
_ITERATIONS = 6


def to_gcj02(lon: Float64Array, lat: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return GCJ-02 longitudes and latitudes of WGS 84 ones, degrees."""
    shift_lon, shift_lat = _shift(lon, lat)
    return lon + shift_lon, lat + shift_lat


def to_wgs84(lon: Float64Array, lat: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return WGS 84 longitudes and latitudes of GCJ-02 ones, degrees."""
    true_lon, true_lat = lon, lat
    for _ in range(_ITERATIONS):
        shift_lon, shift_lat = _shift(true_lon, true_lat)
        true_lon, true_lat = lon - shift_lon, lat - shift_lat
    return true_lon, true_lat


def _shift(lon: Float64Array, lat: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return what GCJ-02 adds to WGS 84 at each point, degrees."""
    x, y = lon - 105.0, lat - 35.0
    root = np.sqrt(np.abs(x))
    fine = (20 * np.sin(6 * np.pi * x) + 20 * np.sin(2 * np.pi * x)) * 2 / 3
    north = -100 + 2 * x + 3 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root + fine
    north = north + (20 * np.sin(np.pi * y) + 40 * np.sin(np.pi * y / 3)) * 2 / 3
    north = north + (160 * np.sin(np.pi * y / 12) + 320 * np.sin(np.pi * y / 30)) * 2 / 3
    east = 300 + x + 2 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root + fine
    east = east + (20 * np.sin(np.pi * x) + 40 * np.sin(np.pi * x / 3)) * 2 / 3
    east = east + (150 * np.sin(np.pi * x / 12) + 300 * np.sin(np.pi * x / 30)) * 2 / 3
    phi = np.radians(lat)
    curvature = 1 - _ECCENTRICITY_2 * np.sin(phi) ** 2
    meridian_m = _AXIS_M * (1 - _ECCENTRICITY_2) / (curvature * np.sqrt(curvature))
    parallel_m = _AXIS_M / np.sqrt(curvature) * np.cos(phi)
    return np.degrees(east / parallel_m), np.degrees(north / meridian_m)
