"""Sources of shots in the order in which they come: one protocol, `shots.Source`."""
