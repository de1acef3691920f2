"""Lattices against their pixels: shoeboxes, likelihood, refinement, mosaic domains."""
