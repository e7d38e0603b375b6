"""Roads from OpenStreetMap: the drivable ways of an extract, and the directed roads that they become."""
