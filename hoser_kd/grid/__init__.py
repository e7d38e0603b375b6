"""The grid group: from road centroids to the tokens of the teacher."""
