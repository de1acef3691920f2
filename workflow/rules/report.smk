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
        mem_mb=4000,
        runtime=60,
    params:
        command=launch("summary"),
    shell:
        RUN


rule report:
    input:
        summaries=files.summaries(CONFIG),
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
        mem_mb=2000,
        runtime=30,
    params:
        command=launch("report"),
    shell:
        RUN
