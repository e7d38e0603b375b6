"""Generation of trips: OD pairs, decoders, the batched generator, generated trajectories, output files."""
