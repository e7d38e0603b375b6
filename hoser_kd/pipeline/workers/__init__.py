"""Processes that several ranks share: the launcher, and what each rank runs."""
