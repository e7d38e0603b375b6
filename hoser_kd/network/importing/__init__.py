"""Road networks and matched trips of other tools, written as a folder in HOSER's format; and export to LibCity."""
