"""The workflow as others use workflows: as a module of another Snakefile, as snakedeploy writes it,
and by the names that the catalog of workflows looks for.
"""

from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]

TRIAL = {"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}}

DEPLOYED = f"""\
configfile: "config.yaml"
module spreadflow:
    snakefile: "{REPOSITORY}/workflow/Snakefile"
    config: config
use rule * from spreadflow
"""

WITHIN = f"""\
configfile: "config.yaml"

rule all:
    input: "results/t/report.html", "own.txt"

rule own:
    input: "results/t/merge.mtz"
    output: "own.txt"
    shell: "cp {{input}} {{output}}"

module spreadflow:
    snakefile: "{REPOSITORY}/Snakefile"
    config: config["xfel"]

use rule * from spreadflow exclude all as xfel_*
"""


def dry_run(call, folder: Path, snakefile: str, config: dict, *argv: str) -> str:
    """What Snakemake would do with a Snakefile of one's own."""
    (folder / "Snakefile").write_text(snakefile)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return call(folder, "--dry-run", "--printshellcmds", "--cores", "1", *argv)


@pytest.mark.chain
def test_five_lines_use_it_as_a_module(tmp_path, call):
    output = dry_run(call, tmp_path, DEPLOYED, TRIAL)
    assert "--run r --out data/r/manifest.json" in output
    assert "--out results/t/report.html" in output


@pytest.mark.chain
def test_it_is_a_part_of_a_larger_workflow(tmp_path, call):
    output = dry_run(call, tmp_path, WITHIN, {"xfel": TRIAL, "own": 1})
    assert "rule xfel_merge:" in output
    assert "cp results/t/merge.mtz own.txt" in output
    assert "--out results/t/report.html" in output


@pytest.mark.chain
def test_a_mistake_in_a_module_names_the_key(tmp_path, call):
    (tmp_path / "Snakefile").write_text(DEPLOYED)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(TRIAL | {"mrege": {}}))
    output = call(tmp_path, "--dry-run", "--cores", "1", status=1)
    assert "config.yaml" in output and "mrege" in output


@pytest.mark.chain
def test_both_names_of_the_snakefile_are_one_workflow(new_trial):
    trial = new_trial(TRIAL)
    assert trial.pending("--snakefile", "workflow/Snakefile") == trial.pending() != set()


def test_the_catalog_finds_what_it_wants():
    usage = yaml.safe_load((REPOSITORY / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert set(usage["software-stack-deployment"].values()) == {False}
    for name in ("workflow/Snakefile", "config/README.md", "README.md"):
        assert (REPOSITORY / name).is_file()
    readme = (REPOSITORY / "README.md").read_text().lower()
    assert "snakemake" in readme and "workflow" in readme
