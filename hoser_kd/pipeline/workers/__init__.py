"""Stages that run in several processes: the launcher and its workers."""
