"""The doors of the command line: `spreadflow <word>`, one word per stage, and a few beside them."""

from spreadflow.cli.main import main

__all__ = ["main"]
