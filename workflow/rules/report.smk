rule summary:
    input:
        products=lambda wildcards: files.summarized(CONFIG, wildcards.stage),
        images=files.manifests(CONFIG),
    output:
        product("{stage}.json"),
        product("{stage}.png"),
    log:
        product("logs/summary.{stage}.log"),
    benchmark:
        product("benchmarks/summary.{stage}.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: 1
    resources:
        mpi="",
        tasks=1,
        mem_mb=1500,
        runtime=60,
    params:
        command=launch("summary"),
    shell:
        RUN


rule report:
    input:
        # where jobs are submitted, each stage's as soon as it is done: others still run for hours
        triggers=files.summaries(CONFIG) if workflow.resource_settings.nodes else [],
        products=files.reported(CONFIG),
        images=files.manifests(CONFIG),
    output:
        product("report.html"),
    log:
        product("logs/report.log"),
    benchmark:
        product("benchmarks/report.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: 1
    resources:
        mpi="",
        tasks=1,
        mem_mb=1500,
        runtime=60,
    params:
        command=launch("report"),
    shell:
        RUN


onerror:
    # what is finished may show why a stage failed
    command = commands.report_of_finished(CONFIG)
    if command:
        shell("{command} || true")
