"""The teacher group: training, importing and evaluating LM-TAD, and its soft labels."""
