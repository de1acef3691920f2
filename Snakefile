"""SPREAD from XFEL stills: the whole workflow on one page.

stage    | in                                       | out
simulate | config only                              | data/<run>/manifest.json and its images
index    | images of a run                          | results/<trial>/<run>/index.h5
level0   | index of the chosen runs                 | results/<trial>/level0.expt
adopt    | images of a run and its spec file, or    | results/<trial>/<run>/reindex.h5, adopt.h5
         | files with intensities of others         |
reindex  | images of any other run, level0          | results/<trial>/<run>/reindex.h5
cells    | reindex of all runs                      | results/<trial>/cells.h5, cells.tdata
merge    | reindex of all runs, cells               | results/<trial>/merge.h5, merge.mtz
annulus  | images and reindex of all runs, cells    | results/<trial>/annulus.h5
wide     | as annulus; where sites or a stage ask   | results/<trial>/wide.h5
ladder   | annulus, cells                           | results/<trial>/ladder.h5
mosaic   | annulus or wide, where it is asked for   | results/<trial>/mosaic.h5
stage1   | annulus or wide; mosaic where learned    | results/<trial>/stage1.h5, stage1.csv
predict  | images, reindex of all runs, stage1      | results/<trial>/predict.h5, predict.expt, predict.refl
pack     | images and reindex of all runs, predict  | results/<trial>/pack.h5
stage2   | pack, stage1, merge; mosaic if learned   | results/<trial>/stage2.h5, stage2.mtz
spread   | wide or pack, stage1; mosaic if learned  | results/<trial>/spread.h5, spread.csv
correlate | images of the runs that say so          | results/<trial>/<run>/correlate.h5, correlate.json
report   | products of all stages, images           | results/<trial>/report.html, <stage>.json, <stage>.png
summary  | products of one stage, images            | <stage>.json, <stage>.png: on a cluster, or asked for

The configuration is validated by spreadflow.config before any job; each rule gets only the sections its stage reads.
Run `snakemake --configfile config/demo.yaml`; without a configfile, config/config.yaml is taken.
"""


include: "workflow/rules/common.smk"


rule all:
    default_target: True
    input:
        product("report.html"),


include: "workflow/rules/simulate.smk"
include: "workflow/rules/index.smk"
include: "workflow/rules/level0.smk"
include: "workflow/rules/adopt.smk"
include: "workflow/rules/reindex.smk"
include: "workflow/rules/cells.smk"
include: "workflow/rules/merge.smk"
include: "workflow/rules/annulus.smk"
include: "workflow/rules/wide.smk"
include: "workflow/rules/ladder.smk"
include: "workflow/rules/mosaic.smk"
include: "workflow/rules/stage1.smk"
include: "workflow/rules/predict.smk"
include: "workflow/rules/pack.smk"
include: "workflow/rules/stage2.smk"
include: "workflow/rules/spread.smk"
include: "workflow/rules/correlate.smk"
include: "workflow/rules/report.smk"
