"""The pipeline without Dagster: stages, versions, the artifact store and checks. `assets` wraps it for Dagster."""
