rule report:
    input:
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
        mem_mb=4000,
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
