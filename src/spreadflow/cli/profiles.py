"""`spreadflow profiles install`: makes literal `snakemake --profile NAME` find the profiles of this
checkout.
"""

import argparse
from pathlib import Path

from spreadflow.errors import FileError


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the word."""
    profiles_help = "make `snakemake --profile NAME` find this checkout's profiles"
    p = words.add_parser("profiles", help=profiles_help)
    p.add_argument("action", choices=["install"])
    p.set_defaults(do=run)


def run(_arguments: argparse.Namespace) -> None:
    """Install the profiles, and say what was linked."""
    for link in install():
        print(f"snakemake --profile {link.name}   ({link} -> {link.readlink()})")


def install(folder: Path = Path("profiles")) -> list[Path]:
    """Link every profile of `folder` but `default` into the user's Snakemake folder. Returns the
    links.

    Raises FileError where there are no profiles, or where something that is no link has the name
    of one already.
    """
    from snakemake.common import get_appdirs

    folders = [path.parent for path in folder.glob("*/config.yaml")]
    profiles = sorted(path.resolve() for path in folders if path.name != "default")
    if not profiles:
        todo = "Call this in the checkout of spreadflow."
        raise FileError(folder, "a folder of profiles", "none", todo)

    home = Path(get_appdirs().user_config_dir)
    try:
        home.mkdir(parents=True, exist_ok=True)
        return [_linked(home / profile.name, profile) for profile in profiles]
    except OSError as error:
        raise FileError(home, "a folder to write to", error, "Set XDG_CONFIG_HOME.") from None


def _linked(link: Path, profile: Path) -> Path:
    """Make a link to a profile, and return it. Raises FileError, OSError."""
    if link.exists() and not link.is_symlink():
        expected = "no profile of this name"
        raise FileError(link, expected, "one that is not a link", "Rename or remove it.")
    link.unlink(missing_ok=True)
    link.symlink_to(profile)
    return link
