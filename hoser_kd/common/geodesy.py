"""Great-circle distances in meters between points in degrees (EPSG:4326)."""

from __future__ import annotations

import numpy as np

from hoser_kd.common.arrays import Float64Array, Int64Array

EARTH_RADIUS_M = 6371008.8
"""Mean earth radius (IUGG), as used by HOSER."""


def great_circle_m(lat1: Float64Array, lng1: Float64Array, lat2: Float64Array, lng2: Float64Array) -> Float64Array:
    """Return the haversine distances in meters of points in degrees, float64; shapes broadcast."""
    phi1, phi2 = np.radians(lat1), np.radians(lat2)
    chord = np.sin((phi2 - phi1) / 2) ** 2
    chord = chord + np.cos(phi1) * np.cos(phi2) * np.sin(np.radians(lng2 - lng1) / 2) ** 2
    distance: Float64Array = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(chord, 1.0)))
    return distance


def line_lengths_m(offsets: Int64Array, lon_lat: Float64Array) -> Float64Array:
    """Return the lengths of lines in meters, rounded to millimeters, (lines,) float64.

    Line i has the points `lon_lat[offsets[i]:offsets[i + 1]]`, in degrees.
    """
    pieces = great_circle_m(lon_lat[:-1, 1], lon_lat[:-1, 0], lon_lat[1:, 1], lon_lat[1:, 0])
    along = np.concatenate([[0.0], np.cumsum(pieces)])
    length_m: Float64Array = np.round(along[offsets[1:] - 1] - along[offsets[:-1]], 3)
    return length_m


def unit_vectors(lat_lon_deg: Float64Array) -> Float64Array:
    """Return the points on the unit sphere, (N, 3) float64, of (N, 2) latitudes and longitudes in degrees.

    A quarter of the squared chord between two of them is the haversine of their angle, so distances between many pairs
    need no trigonometric function per pair.
    """
    lat, lon = np.radians(lat_lon_deg).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
