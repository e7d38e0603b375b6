"""Bad inputs by kind, for `benchmarks/bad_inputs.py`: valid ones with one mistake each, made by rules."""
