"""From the pixels of one still to its lattices and integrated reflections."""
