"""Great-circle distances: metric properties, known values, and agreement with unit vectors and with the ellipsoid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from hoser_kd.common.geodesy import EARTH_RADIUS_M, great_circle_m, unit_vectors

LAT, LNG = st.floats(-90, 90), st.floats(-180, 180)
POINT = st.tuples(LAT, LNG)
HALF_CIRCLE_M = np.pi * EARTH_RADIUS_M
ROUNDING_M = 0.2
"""Near antipodes, an arcsine close to 1 loses half of the digits."""


@given(POINT, POINT)
def test_distances_are_symmetric_and_bounded(one, other):
    distance = great_circle_m(*one, *other)
    assert 0 <= distance <= HALF_CIRCLE_M * (1 + 1e-12)
    assert distance == pytest.approx(great_circle_m(*other, *one), abs=ROUNDING_M)
    assert great_circle_m(*one, *one) == 0


@given(POINT, POINT, POINT)
def test_the_triangle_inequality_holds(a, b, c):
    assert great_circle_m(*a, *c) <= great_circle_m(*a, *b) + great_circle_m(*b, *c) + ROUNDING_M


@given(LAT, LNG, LNG, st.floats(-360, 360))
def test_a_rotation_about_the_axis_changes_no_distance(lat, lng, other, turn):
    expected = great_circle_m(lat, lng, -lat / 2, other)
    assert great_circle_m(lat, lng + turn, -lat / 2, other + turn) == pytest.approx(expected, abs=ROUNDING_M)


@given(LNG, st.floats(-90, 90), st.floats(-90, 90))
def test_distances_along_a_meridian_are_proportional_to_the_angle(lng, one, other):
    expected = np.radians(abs(one - other)) * EARTH_RADIUS_M
    assert great_circle_m(one, lng, other, lng) == pytest.approx(expected, rel=1e-9, abs=ROUNDING_M)


@given(POINT, POINT)
def test_chords_of_unit_vectors_give_the_same_distance(one, other):
    vectors = unit_vectors(np.array([one, other]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-12)
    haversine = ((vectors[0] - vectors[1]) ** 2).sum() / 4
    distance = 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(min(haversine, 1.0)))
    assert distance == pytest.approx(great_circle_m(*one, *other), abs=ROUNDING_M)


def test_distances_are_within_half_a_percent_of_the_ellipsoid():
    rng = np.random.default_rng(0)
    lat, lng = rng.uniform(-80, 80, (2, 200)), rng.uniform(-180, 180, (2, 200))
    _, _, expected = Geod(ellps="WGS84").inv(lng[0], lat[0], lng[1], lat[1])
    np.testing.assert_allclose(great_circle_m(lat[0], lng[0], lat[1], lng[1]), expected, rtol=0.0056)


def test_shapes_broadcast():
    lat, lng = np.zeros((3, 1)), np.zeros((3, 1))
    assert great_circle_m(lat, lng, np.ones(4), np.ones(4)).shape == (3, 4)
