rule annulus:
    input:
        images=[manifest(run) for run in RUNS],
        reindex=of_runs("reindex"),
        cells=product("cells.h5"),
    output:
        product("annulus.h5"),
    log:
        product("logs/annulus.log"),
    benchmark:
        product("benchmarks/annulus.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(1500),
        runtime=120,
    params:
        config=section("annulus"),
        command=launch("annulus"),
    shell:
        RUN
