"""The grid group: mapping of road centroids to the tokens of the teacher."""
