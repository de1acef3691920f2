rule cells:
    input:
        given("cells"),
        reindex=of_runs("reindex"),
    output:
        product("cells.h5"),
        product("cells.tdata"),
    log:
        product("logs/cells.log"),
    benchmark:
        product("benchmarks/cells.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: 1
    resources:
        mpi="",
        tasks=1,
        mem_mb=4000,
        runtime=60,
    params:
        config=section("cells"),
        command=launch("cells"),
    shell:
        RUN
