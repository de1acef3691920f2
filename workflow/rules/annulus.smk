rule annulus:
    input:
        images=[manifest(run) for run in RUNS],
        reindex=of_runs("reindex"),
        cells=product("cells.h5"),
    output:
        product("annulus.h5"),
    params:
        config=section("annulus"),
        command=launch("annulus"),
    log:
        product("logs/annulus.log"),
    benchmark:
        product("benchmarks/annulus.tsv")
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(1500),
        runtime=120,
    shell:
        RUN
