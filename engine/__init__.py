"""The engine: requests go down, events come up. See README for the map."""
