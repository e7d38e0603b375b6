"""The evaluation group: metrics of generated trips, scenarios, and the comparison of students."""
