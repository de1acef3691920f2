rule merge:
    input:
        given("merge"),
        reindex=of_runs("reindex"),
        cells=product("cells.h5"),
    output:
        product("merge.h5"),
        product("merge.mtz"),
    log:
        product("logs/merge.log"),
    benchmark:
        product("benchmarks/merge.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: 1
    resources:
        mpi="",
        tasks=1,
        mem_mb=4000,
        runtime=120,
    params:
        config=section("merge"),
        command=launch("merge"),
    shell:
        RUN
