"""Floor 1: what every other package stands on. Imports nothing else of this project."""
