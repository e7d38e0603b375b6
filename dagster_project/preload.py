"""Imported once per run, in the process from which its steps are forked, so that each step starts at once."""

import importlib

from hoser_kd.common.forked_imports import imports_before_fork

with imports_before_fork():
    importlib.import_module("dagster_project.definitions")
    importlib.import_module("dagster_project.preload_stages")
