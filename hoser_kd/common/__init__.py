"""Shared basics: arrays, errors, files, hashing, geodesy, calendar, progress, devices, optimizer and registries."""
