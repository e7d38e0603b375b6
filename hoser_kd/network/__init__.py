"""The network group: road networks, trajectories, zones, raw data sources, and the synthetic city."""
