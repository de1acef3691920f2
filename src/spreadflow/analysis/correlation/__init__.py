"""Correlation of pixels in time: which shots are partners, sums over them, curves of delay."""
