"""Lattices that programs have indexed, as their files have them: read and written."""
