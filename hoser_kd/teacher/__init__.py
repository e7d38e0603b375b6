"""Train, import and evaluate LM-TAD teachers, and compute their soft labels."""
