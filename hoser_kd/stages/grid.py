"""Stages of the grid group: the token of every road."""

from __future__ import annotations
