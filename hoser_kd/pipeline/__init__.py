"""The pipeline: stages, versions, the artifact store, and checks. No Dagster here; `assets` builds on it."""
