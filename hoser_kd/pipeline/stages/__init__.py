"""Functions of the stages, one module per group, in the group evaluation one per stage.

Each reads its inputs' files, calls the library, and writes files.

What belongs here: the files of an artifact, with the metrics and figures beside them. What does not: computation (the
other packages), versions (`hoser_kd.pipeline.run`) and folders (`hoser_kd.pipeline.store`).
Every function takes a `StageRun` and returns its summary: metrics as numbers, texts, lists and dicts.
"""
