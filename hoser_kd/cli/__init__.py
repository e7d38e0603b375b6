"""The command line `hoser-kd`: runs the stages without Dagster, with the same functions and the same store.

Artifacts of the same version that exist in the store, from Dagster or from the command line, are reused.
"""

from hoser_kd.cli.main import main

__all__ = ["main"]
