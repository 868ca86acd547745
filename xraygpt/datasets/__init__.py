"""Data: preparation of folders, datasets over them, builders that a YAML file names, and loaders with a stateless order."""
