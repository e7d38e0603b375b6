"""Distil LM-TAD, a language model over trajectories, into HOSER, a road-level trajectory generator.

The library: models, labels, distillation, search and metrics over plain files and arrays.
It knows nothing of Dagster; `assets` and `dagster_project` build on it, never the reverse.
"""

__version__ = "0.1.0"
