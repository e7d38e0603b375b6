"""A deterministic synthetic city: streets and trips."""
