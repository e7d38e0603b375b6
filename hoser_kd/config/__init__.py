"""Settings of a city: the typed schema of `config/<city>.yaml`, and reading it with errors that name the line."""
