"""What the rules share: the validated configuration, the paths of the products, and the one place that composes commands.

A rule's named inputs become arguments of its command; unnamed inputs only trigger it.
"""

import shlex
import shutil
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from spreadflow import config as schema
from spreadflow.errors import SpreadflowError

if not workflow.overwrite_configfiles:  # no --configfile

    configfile: str(Path(workflow.basedir, "config", "config.yaml"))


try:
    CONFIG = schema.parse(config)
    schema.check_ready(CONFIG)
except SpreadflowError as error:
    raise WorkflowError(str(error)) from None

RUNS = list(CONFIG.runs)
SIMULATED = [run for run in RUNS if CONFIG.runs[run].simulate]
TOLD = [run for run in RUNS if CONFIG.runs[run].spec]  # whose lattices a spec file tells
FOUND = [run for run in RUNS if run not in TOLD]
FROZEN = CONFIG.level0.from_file is not None


def has_model(stage):
    """Whether the stage's structure factors are of the crystals in the images: not the stand-in for a model not given."""
    of = CONFIG.resolved(f"{stage}.structure_factors")
    return bool(SIMULATED) or of.source != "model" or of.model is not None


FACTORS = CONFIG.resolved("stage1.structure_factors")
HAS_SITES = bool(FACTORS.sites) and (bool(SIMULATED) or FACTORS.model is not None)
IS_LEARNED = CONFIG.stage1.mosaicity == "learned" and has_model("stage1") and has_model("mosaic")
RANGES = {*([CONFIG.stage1.range] if has_model("stage1") else []), *([CONFIG.mosaic.shoeboxes] if IS_LEARNED else [])}
UNUSED = [
    *([] if HAS_SITES or "wide" in RANGES else ["wide"]),
    *([] if IS_LEARNED else ["mosaic"]),
    *(["index", "level0"] if FROZEN or not FOUND else []),
    *([] if TOLD else ["adopt"]),
    *([] if SIMULATED else ["simulate"]),
    *(stage for stage in ("ladder", "stage1") if not has_model(stage)),
    *([] if HAS_SITES else ["spread"]),
]
STAGES = [stage for stage in schema.SECTIONS if stage not in UNUSED]

MPI = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or shutil.which("mpiexec") or ""
RANKS = 8  # at most, one per core: --cores and the profile's `tasks` have the last word
RUN = "{params.command} 2> {log} || {{ code=$?; tail -n 30 {log} >&2; exit $code; }}"


wildcard_constraints:
    run="|".join(RUNS),
    stage="|".join(STAGES),


def product(name):
    """Path of a product of the trial."""
    return str(CONFIG.results / CONFIG.trial / name)


def of_runs(word, runs=None):
    """The products of a stage that works run by run, for all runs or those named."""
    return [product(f"{run}/{word}.h5") for run in (RUNS if runs is None else runs)]


def manifest(run):
    """The manifest of a run's images, external or simulated."""
    return str(CONFIG.runs[run].images or CONFIG.data / run / "manifest.json")


def images(wildcards):
    return manifest(wildcards.run)


def given(section):
    """The files a section of the configuration names: inputs that trigger a rule."""
    return [str(path) for key, path in schema.files(CONFIG).items() if key.startswith(f"{section}.")]


def products(wildcards):
    """The products a summary reads: one file of the trial, or one per run."""
    if wildcards.stage == "simulate":
        return [manifest(run) for run in SIMULATED]
    if wildcards.stage in ("index", "adopt", "reindex"):
        return of_runs(wildcards.stage, {"index": FOUND, "adopt": TOLD}.get(wildcards.stage))
    return product(wildcards.stage + (".expt" if wildcards.stage == "level0" else ".h5"))


def section(stage):
    """The config sections of a stage as JSON: the tracked parameter that decides what an edited key reruns."""
    return lambda wildcards: schema.section(CONFIG, stage, wildcards.get("run"))


def ranks(wildcards, threads):
    """One rank per core Snakemake grants; a cluster profile sets `tasks` itself."""
    return threads if MPI else 1


def memory(mb_per_rank):
    return lambda wildcards, threads: mb_per_rank * threads


def launch(word):
    """The command of a rule: thread caps, launcher and ranks, container prefix, `spreadflow WORD` and its arguments.

    Launcher and container come from the profile (resources `mpi`, `tasks`, `container`) and may be empty. Snakemake does
    not track a parameter made from resources, so another launcher or number of ranks reruns nothing.
    """

    def command(wildcards, input, output, threads, resources):
        tasks = resources.tasks
        caps = [f"{name}={max(1, threads // tasks)}" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")]
        launcher = f"{resources.mpi} -n {tasks}" if resources.mpi and tasks > 1 else ""
        words = ["spreadflow", word]
        if word in schema.SECTIONS:
            words += ["--config", schema.section(CONFIG, word, wildcards.get("run")), "--ranks", tasks]
            words += ["--run", wildcards.run] if word == "simulate" else []
        else:
            words += wildcards
        for name, files in input.items():
            words += [f"--{name}", *([files] if isinstance(files, str) else files)]
        program = shlex.join(map(str, [*words, "--out", output[0]]))
        return " ".join(filter(None, ["env", *caps, launcher, resources.get("container", ""), program]))

    return command


shell.prefix(f"set -euo pipefail; export PATH={shlex.quote(sys.prefix)}/bin:$PATH; ")
