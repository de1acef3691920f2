"""`spreadflow config`: every key with its default, as commented YAML."""

import argparse


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    p = words.add_parser("config", help="print every key with its default")
    p.set_defaults(do=run)


def run(_arguments: argparse.Namespace) -> None:
    """Print the text of config/config.yaml."""
    from spreadflow.config import commented

    print(commented.document(), end="")
