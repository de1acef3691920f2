"""The workflow's manners: lint, errors before any job, logs of failures, records of every rule."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from spreadflow.config import Config, check_ready, load, overlay, parse, setting
from spreadflow.config.commented import FIRST_LOOK, document
from spreadflow.config.trial import TARGET
from spreadflow.errors import ConfigError, FileError
from spreadflow.trial import BY_WORD, STAGES, commands

REPOSITORY = Path(__file__).parents[2]
SMALL = {"trial": "t", "runs": {run: {"simulate": {"n_single": 2}} for run in ("r1", "r2")}}
"""A trial of two simulated runs."""
CONFIGS = sorted((REPOSITORY / "config").glob("*.yaml"))


@pytest.mark.chain
def test_lint_is_clean(call):
    assert "Congratulations" in call(REPOSITORY, "--lint")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_is_valid_and_says_only_what_differs(path):
    config = load(path)
    assert config.runs
    stated = TARGET if config.is_recorded else ()  # recorded crystals have no default
    if path.stem != "config":
        for section, keys in yaml.safe_load(path.read_text()).items():
            default = Config().model_dump(mode="json", by_alias=True)[section]
            if isinstance(keys, dict) and section not in ("runs", "reindex"):
                same = [key for key, value in keys.items() if value == default.get(key)]
                same = [key for key in same if section != "index" or key not in stated]
                assert not same, f"{section}.{same} are the defaults"


def test_the_defaults_are_complete_and_those_of_the_schema():
    committed = (REPOSITORY / "config" / "config.yaml").read_text()
    assert committed == document(), "run `make config`"
    assert load(REPOSITORY / "config" / "config.yaml") == FIRST_LOOK
    tree = yaml.safe_load(committed)
    assert tree.keys() == {field.alias or name for name, field in Config.model_fields.items()}


MANY_RANKS = {stage.word for stage in STAGES if stage.is_parallel}
MISTAKES = {
    "unknown section": ("annullus={d_min: 2.0}", ["annullus", "unknown key"]),
    "unknown key": ("merge={n_bin: 3}", ["merge.n_bin", "unknown key"]),
    "impossible value": (
        "index={d_min: -1}",
        ["index.d_min", "-1", "greater than or equal to 0.3"],
    ),
    "wrong type": ("detector={distance_mm: far}", ["detector.distance_mm", "'far'", "number"]),
    "impossible order": ("annulus={d_min: 3.0}", ["annulus", "d_min", "3.0"]),
    "no such group": ("crystal={space_group: C 3}", ["crystal.space_group", "C 3"]),
    "group against cell": ("index={space_group: P 41 21 2}", ["index", "a = b, 90 90 90"]),
    "unknown run": ("level0={runs: [r9]}", ["level0.runs", "r9", "r1, r2"]),
    "both kinds": ("runs={r1: {images: m.json, simulate: {n_single: 1}}}", ["runs.r1", "both"]),
    "yes for a number": ("seed=yes", ["seed", "yes", "True"]),
    "no for a count": ("runs={r1: {simulate: {n_single: no}}}", ["n_single", "False"]),
    "yes in a list": ("detector={shape: [yes, 5]}", ["detector.shape", "yes"]),
    "spots out of order": ("index={spots: {d_min: 5, d_max: 3}}", ["index.spots.d_min", "3.0"]),
    "no spots possible": ("index={spots: {min_spots: 5000}}", ["min_spots", "max_spots", "5000"]),
    "pixels out of order": ("index={spots: {min_pixels: 300}}", ["min_pixels", "max_pixels"]),
    "nothing to refine": ("stage1={refine: []}", ["stage1.refine", "at least 1"]),
    "refined twice": ("stage1={refine: [scale, scale]}", ["stage1.refine", "twice"]),
    "features twice": ("cells={features: [a, a]}", ["cells.features", "twice"]),
    "no run": ("cells={runs: []}", ["cells.runs", "at least 1"]),
    "site twice": (
        "structure_factors={sites: [{atom: FE1, curve: metallic}, {atom: [FE1], curve: reduced}]}",
        ["structure_factors.sites", "two sites"],
    ),
    "cell in nm": (
        "index={cell: [6.72, 5.98, 4.72, 90, 110.3, 90]}",
        ["index.cell", "1000 Å³", "not in nm"],
    ),
    "cell in pm": ("crystal={cell: [6720, 5980, 4720, 90, 110.3, 90]}", ["crystal.cell", "5000 Å"]),
    "huge seed": ("seed=100000000000000000000000", ["seed", "9223372036854775808"]),
    "negative seed": ("structure_factors={phantom_seed: -1}", ["phantom_seed", "-1"]),
    "no folder": ("results=''", ["results", "not empty"]),
    "no file": ("merge={reference: ''}", ["merge.reference", "not empty"]),
    "results in the data": ("results=data/own", ["results", "neither `data`", "data/own"]),
    "results are the data": ("data=./results", ["results", "neither `data`"]),
    "data in the trial": ("data=results/t/data", ["data", "results/t/data"]),
    "yes deep in a list": ("detector={bad_pixels: [[yes, 0, 1, 0, 1]]}", ["bad_pixels", "yes"]),
    "curves of other sites": (
        "spread={known: [oxidized]}",
        ["spread.known", "2 curves, one for each of FE1, FE2"],
    ),
    "beam in keV": ("beam={energy_ev: 7.12}", ["beam.energy_ev", "1000", "7.12"]),
    "pixel in metres": ("detector={pixel_mm: 0.000177}", ["detector.pixel_mm", "0.000177"]),
    "saturated at once": ("detector={saturation_adu: 5}", ["saturation_adu", "offset_adu, 10"]),
    "panel upstream": ("detector={panels: [{origin_mm: [-9, 9, 140]}]}", ["panels", "z = 140"]),
    "parallel axes": (
        "detector={panels: [{origin_mm: [-9, 9, -140], slow: [1, 0, 0]}]}",
        ["detector.panels.0", "right angles"],
    ),
    "pixels outside": ("detector={bad_pixels: [[1, 0, 1, 0, 1]]}", ["bad_pixels", "[1, 0, 1"]),
    "too many shots": (
        "runs={r1: {simulate: {n_single: 1000000000000}}}",
        ["n_single", "10000000"],
    ),
    "too many channels": ("beam={n_channels: 100000000000}", ["beam.n_channels", "100000"]),
    "too large": ("detector={shape: [1000000000, 10]}", ["detector.shape", "16384"]),
    "too fine": ("merge={d_min: 0.01}", ["merge.d_min", "0.3"]),
    "run named as a folder": ("runs={logs: {simulate: {n_single: 1}}}", ["runs.logs", "logs"]),
    "run named as parts": ("runs={annulus.parts: {simulate: {}}}", ["annulus.parts", "ending"]),
    "run above": ("runs={..: {simulate: {n_single: 1}}}", ["runs", "'..'"]),
    "trial above": ("trial=..", ["trial", "'..'"]),
    "long name": (f"trial={'x' * 300}", ["trial", "200 characters"]),
    "frozen by itself": (
        "cells={from: results/t/cells.h5}",
        ["cells.from", "results/t/cells.h5", "copy"],
    ),
}


@pytest.mark.parametrize(("edit", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_sentence(edit, words):
    with pytest.raises(ConfigError) as error:
        parse(overlay(SMALL, setting(edit)))
    sentence = str(error.value)
    assert all(word in sentence for word in ["expected", *words]), sentence


@pytest.mark.chain
def test_a_mistake_ends_the_workflow_before_any_job(finished):
    edit, words = MISTAKES["impossible value"]
    output = finished.snakemake("--cores", "1", "--config", edit, status=1)
    sentences = [line for line in output.splitlines() if "expected" in line]
    assert len(sentences) == 1
    assert all(word in sentences[0] for word in words), sentences
    assert "Traceback" not in output
    assert "Job stats" not in output


MISSING = {
    "manifest": (
        "runs={r3: {images: elsewhere/manifest.json}}",
        ["runs.r3.images", "manifest.json", "spreadflow manifest"],
    ),
    "model": ("structure_factors={model: protein.pdb}", ["structure_factors.model", "protein.pdb"]),
    "curve": (
        "structure_factors={sites: [{atom: FE1, curve: mine.dat}]}",
        ["structure_factors.sites.0.curve", "mine.dat"],
    ),
    "stage's own model": (
        "stage1={structure_factors: {model: other.pdb}}",
        ["stage1.structure_factors.model", "other.pdb"],
    ),
    "merged": ("structure_factors={mtz: merge.mtz}", ["structure_factors.mtz", "merge.mtz"]),
    "geometry": ("level0={from: no.expt}", ["level0.from", "no.expt"]),
    "spec file": ("runs={r2: {spec: no.txt}}", ["runs.r2.spec", "no.txt"]),
}


@pytest.mark.parametrize(("edit", "words"), MISSING.values(), ids=MISSING)
def test_a_missing_file_is_named(edit, words):
    with pytest.raises(FileError, match="an existing file") as error:
        check_ready(parse(overlay(SMALL, setting(edit))))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("key", ["results", "data"])
def test_a_folder_that_can_not_be_made_is_named(tmp_path, key):
    (tmp_path / "file").touch()
    config = parse(SMALL | {key: str(tmp_path / "file" / "folder")})
    with pytest.raises(FileError, match=f"mine.yaml: {key}: expected a place for .*/file/folder"):
        check_ready(config, "mine.yaml")


@pytest.mark.chain
def test_a_missing_file_is_named_although_the_old_products_are_there(finished):
    edit, words = MISSING["model"]
    output = finished.snakemake("--dry-run", "--config", edit, status=1)
    sentence = next(line for line in output.splitlines() if "an existing file" in line)
    assert all(word in sentence for word in words), sentence


def test_a_trial_without_runs_is_refused():
    with pytest.raises(ConfigError, match="runs: expected at least one run; found none"):
        check_ready(parse({"trial": "t", "runs": {}}))


@pytest.mark.chain
def test_a_failed_stage_shows_its_log_and_loses_nothing_else(new_trial, tmp_path):
    """What is finished is reported then, which is real and meets the files of stand-ins."""
    trial = new_trial(
        {
            "trial": "t",
            "runs": {"r1": {"simulate": {"n_single": 2}}, "r2": {"simulate": {"n_single": 2}}},
        }
    )
    broken = tmp_path / "broken"
    stub = Path(__file__).with_name("stub")
    broken.write_text(
        f'#!/bin/bash\n[[ "$*" == *r2/index* ]] && {{ echo "no such detector" >&2; exit 7; '
        f'}}\n{stub} "$@"\n'
    )
    broken.chmod(0o755)
    output = trial.snakemake(
        "--cores", "1", "--keep-going", "--default-resources", f"container={broken}", status=1
    )

    assert "no such detector" in output
    assert (trial.folder / "results/t/logs/index.r2.log").read_text() == "no such detector\n"
    assert (trial.folder / "results/t/r1/index.h5").exists()
    assert not (trial.folder / "results/t/r2/index.h5").exists()
    assert "spreadflow report: data/r1/manifest.json: (whole file): expected a manifest" in output


@pytest.mark.chain
def test_every_rule_states_log_benchmark_and_resources(finished):
    """As Snakemake understands them, with the ranks of the rules that have many."""
    (finished.folder / "spec.txt").write_text("a.expt a.refl")
    adopted_run = "r2: {simulate: {n_single: 2}, spec: spec.txt}"
    correlated_run = "r3: {simulate: {n_single: 2}, correlate: {}}"
    runs = f"runs={{{adopted_run}, {correlated_run}}}"
    every = ("--config", "stage1={mosaicity: learned}", runs)
    plan = finished.snakemake("--dry-run", "--forceall", "--cores", "4", *every)
    jobs = re.split(r"\n(?=(?:local)?rule )", plan)[1:]
    rules = set()
    for job in jobs:
        rule = re.match(r"(?:local)?rule (\w+):", job).group(1)
        if rule == "all":
            continue
        rules.add(rule)
        assert (
            "\n    log: results/t/logs/" in job and "\n    benchmark: results/t/benchmarks/" in job
        ), job
        listed = re.search(r"\n    resources: (.*)", job).group(1)
        resources = dict(word.split("=", 1) for word in listed.split(", "))
        assert int(resources["mem_mb"]) > 0 and int(resources["runtime"]) > 0, job
        ranks = 4 if rule in MANY_RANKS else 1
        assert int(resources["tasks"]) == ranks, job
        assert resources["mpi"].endswith("mpiexec") == (ranks > 1), job
        assert f"\n    threads: {ranks}" in job or ranks == 1, job

    assert rules == {*BY_WORD, "report"}


@pytest.mark.chain
def test_every_job_leaves_a_log_and_a_benchmark(finished):
    results = finished.folder / "results" / "t"
    logs = {path.stem for path in (results / "logs").glob("*.log")}
    assert logs == {path.stem for path in (results / "benchmarks").glob("*.tsv")}
    assert len(logs) == 3 * 2 + 11 + 1


@pytest.mark.chain
def test_from_another_folder_with_the_snakefile_named(tmp_path, call):
    """The workflow runs where the data are; the defaults come from beside the Snakefile."""
    output = call(tmp_path, "--dry-run", "--snakefile", REPOSITORY / "Snakefile")
    assert "data/first_look/manifest.json" in output


def test_bare_commands_are_installed():
    for command in ("spreadflow", "snakemake", "pytest", "mpiexec"):
        assert shutil.which(command, path=Path(sys.prefix, "bin")), command

    completed = subprocess.run(
        [Path(sys.prefix, "bin", "spreadflow"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert completed.returncode == 0
    assert "annulus" in completed.stdout


TRAPS = {
    "key twice": ("index: {d_min: 2.0}\nindex: {d_min: 3.0}", ["the key index twice", "line 2"]),
    "nested key twice": ("index: {d_min: 2.0, d_min: 3.0}", ["the key d_min twice", "line 1"]),
    "number in sixties": ("beam: {photons: 1:30:00}", ["1:30:00", "sixties", "line 1"]),
    "not YAML": ("index: {d_min: 2.0", ["line 1"]),
}


@pytest.mark.parametrize(("text", "words"), TRAPS.values(), ids=TRAPS)
def test_traps_of_yaml_are_named_with_file_and_line(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(ConfigError) as error:
        load(path)
    sentence = str(error.value)
    assert all(word in sentence for word in [str(path), *words]), sentence


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="a readable YAML file"):
        load(path)


@pytest.mark.parametrize("text", ["beam.photons=1:30:00", "index={d_min: 2.0, d_min: 3.0}"])
def test_traps_of_yaml_are_named_in_settings(text):
    with pytest.raises(ConfigError, match=r"in sixties|the key d_min twice"):
        setting(text)


@pytest.mark.chain
@pytest.mark.parametrize("edit", ["seed=yes", "beam={photons: 1:30:00}", "beam={photons: on}"])
def test_traps_of_yaml_are_named_on_the_command_line(finished, edit):
    """Snakemake reads `--config` as text, which becomes a number or none here."""
    output = finished.snakemake("--dry-run", "--config", edit, status=1)
    sentences = [line for line in output.splitlines() if "expected" in line]
    assert len(sentences) == 1
    assert "number" in sentences[0] or "integer" in sentences[0]


@pytest.mark.chain
def test_the_workflow_names_the_file_that_is_wrong(new_trial):
    trial = new_trial(SMALL)
    path = trial.folder / "config" / "mine.yaml"
    path.write_text("trial: t\nindex: {d_min: 2.0}\nindex: {d_min: 3.0}\n")
    output = trial.snakemake("--dry-run", "--configfile", str(path), status=1)
    assert output.count("the key index twice") == 1
    assert str(path) in output

    path.write_text("trial: t\nindex: {d_min: -2.0}\n")
    output = trial.snakemake("--dry-run", "--configfile", str(path), status=1)
    assert f"{path}: index.d_min: expected" in output
    assert "Traceback" not in output


HOSTILE = "my résults; touch one $(touch two) `touch three` 'x' \"y\" & z"


@pytest.mark.chain
def test_no_letter_of_a_path_reaches_the_shell(tmp_path, new_trial):
    """Blanks and quotes in the names of folders, and commands; all of a rule's words are quoted."""
    config = {
        "trial": "t",
        "results": HOSTILE,
        "data": f"{HOSTILE} data",
        "runs": {"r": {"simulate": {"n_single": 2}}},
    }
    trial = new_trial(config, f"{HOSTILE} here")
    trial.finish("--", "level0")
    assert (trial.folder / HOSTILE / "t" / "level0.expt").is_file()
    there = {path.name for path in trial.folder.iterdir()} - {".snakemake"}
    linked = {"Snakefile", "workflow", "profiles", "config"}
    assert there == linked | {HOSTILE, f"{HOSTILE} data"}
    assert [path.name for path in tmp_path.iterdir()] == [trial.folder.name]


def test_no_letter_of_a_key_reaches_the_shell():
    sites = [{"atom": HOSTILE, "curve": "metallic"}]
    config = parse(SMALL | {"structure_factors": {"sites": sites}})
    resources = SimpleNamespace(mpi="", tasks=1, get=lambda name, default: default)
    line = commands.command(config, "stage1", {}, {"shoeboxes": HOSTILE}, HOSTILE, resources)
    words = shlex.split(line)
    assert words[words.index("--shoeboxes") + 1] == words[words.index("--out") + 1] == HOSTILE
    sections = json.loads(words[words.index("--config") + 1])
    assert sections["structure_factors"]["sites"][0]["atom"] == HOSTILE


@pytest.mark.chain
def test_names_of_two_hundred_letters_are_not_too_long(new_trial):
    name = "".join(f"{n:04d}" for n in range(50))
    assert len(name) == 200
    trial = new_trial({"trial": name, "runs": {name: {"simulate": {"n_single": 2}}}})
    trial.finish("--", "level0")
    assert (trial.folder / "results" / name / "level0.expt").is_file()


def test_without_a_launcher_a_rule_asks_for_the_one_core_that_it_uses():
    assert commands.most_ranks("") == 1
    assert commands.most_ranks("mpiexec") == 8


@pytest.mark.parametrize("key", ["data", "results", "merge.reference"])
def test_a_path_that_snakemake_would_take_for_a_pattern_is_refused(key):
    config = parse(overlay(SMALL, setting(f"{key}='res{{stage}}'")))
    with pytest.raises(ConfigError, match=f"{key}: expected a path without braces"):
        check_ready(config)
