rule summary:
    input:
        products=products,
        images=[manifest(run) for run in RUNS],
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
        summaries=[product(f"{stage}.json") for stage in STAGES],
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
