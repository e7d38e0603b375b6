"""The student group: losses, training and next-step metrics of HOSER."""
