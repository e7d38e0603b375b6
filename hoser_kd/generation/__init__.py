"""Generation of trips: OD pairs, decoding methods, the batched generator, output files."""
