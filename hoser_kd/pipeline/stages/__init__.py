"""The stages' functions, a module a group: each reads the files of its inputs, calls the library, and writes files.

What belongs here: which file holds what, figures and pictures worth keeping beside it. What does not: computing, which
is the rest of the library, and versions and places, which are `hoser_kd.pipeline.graph` and `hoser_kd.pipeline.store`.
Every function takes a `StageRun` and returns its summary: figures worth showing, as plain numbers, texts, lists, dicts.
"""
