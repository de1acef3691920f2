rule ladder:
    input:
        given("ladder"),
        annulus=product("annulus.h5"),
        cells=product("cells.h5"),
    output:
        product("ladder.h5"),
    log:
        product("logs/ladder.log"),
    benchmark:
        product("benchmarks/ladder.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(2500),
        runtime=240,
    params:
        config=section("ladder"),
        command=launch("ladder"),
    shell:
        RUN
