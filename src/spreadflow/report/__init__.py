"""Figures and pictures: each module makes the `<stage>.json` and `<stage>.png` of one stage from
its finished products.

The only code beside the tests that reads a simulation's truth. Keys are documented in
docs/summaries.md.
"""
