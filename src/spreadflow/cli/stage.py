"""`spreadflow index --config ... --images ... --out ...`: one stage, on the ranks that the launcher
started.

The arguments are the fields of the stage's inputs (`trial/inputs.py`).
"""

import argparse
import importlib
from dataclasses import MISSING, Field, fields
from pathlib import Path

from spreadflow.trial import BY_WORD, STAGES, Stage

WITH_OTHER_OPTIONS = ("correlate",)
"""Stages that are also called without a trial, and have a module of their own."""


def add_to(words: argparse._SubParsersAction) -> None:
    """Add the words of all stages."""
    for stage in STAGES:
        if stage.word in WITH_OTHER_OPTIONS:
            continue
        p = words.add_parser(stage.word, help=f"the stage {stage.word}", description=stage.meaning)
        p.add_argument(
            "--config", required=True, help="JSON of the stage's sections, or a YAML file"
        )
        p.add_argument("--ranks", type=int, default=1, help="ranks the launcher was asked for")
        p.add_argument("--out", type=Path, required=True, help="the product")
        if stage.runs is not None:
            p.add_argument(
                "--run",
                required=stage.word == "simulate",
                help="name of the run; needed where it has keys of its own in a YAML file",
            )
        if stage.word == "simulate":
            shots_help = "only the image files that hold these shots of the run"
            p.add_argument("--shots", metavar="FIRST:END", help=shots_help)
        for field in fields(stage.inputs):
            _add_input(p, field)
        p.set_defaults(do=run)


def _add_input(p: argparse.ArgumentParser, field: Field) -> None:
    """Add the argument of one input: a file, one or more files, or a file that may be absent."""
    is_optional = field.default is not MISSING
    is_list = field.type in (list[Path], list[Path] | None)
    p.add_argument(
        f"--{field.name}",
        type=Path,
        required=not is_optional,
        nargs="+" if is_list else None,
    )


def inputs_of(stage: Stage, arguments: argparse.Namespace) -> dict:
    """Return the input files of a stage by name, of `simulate` and `adopt` also the run, and of the
    former its shots.
    """
    names = [field.name for field in fields(stage.inputs)]
    if stage.word == "simulate":
        names += ["run", "shots"]
    if stage.word == "adopt":
        names += ["run"]
    return {name: getattr(arguments, name) for name in names}


def run(arguments: argparse.Namespace) -> None:
    """Run a stage. Where one rank does not come to its end, all end."""
    from spreadflow.config import OVERLAYS, for_stage
    from spreadflow.io import shares, store
    from spreadflow.log import logger
    from spreadflow.parallel import ending_together

    stage = BY_WORD[arguments.word]
    with ending_together(stage.word, arguments.ranks) as world:
        module_name = OVERLAYS.get(stage.word, stage.word)
        module = importlib.import_module(f"spreadflow.stages.{module_name}")
        config = for_stage(arguments.config, stage.word, getattr(arguments, "run", None))
        inputs = inputs_of(stage, arguments)
        out = arguments.out
        world.once(lambda: store.remove_unfinished(out))
        world.once(lambda: shares.remove(out))
        start_s = world.busy_s
        if stage.is_in_jax:
            from spreadflow.stages import devices

            devices.take(world, stage.word)
        module.run(config, **inputs, out=out, world=world, word=stage.word)
        of_ranks = world.shares(start_s)
        world.once(lambda: shares.write(out, of_ranks))
        logger(stage.word, world).info("%s", of_ranks.sentence())
