"""A synthetic city: streets, and trips over them, the same on every machine."""
