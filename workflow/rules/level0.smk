if not FROZEN:

    rule level0:
        input:
            index=of_runs("index", CONFIG.level0.runs),
        output:
            product("level0.expt"),
        params:
            config=section("level0"),
            command=launch("level0"),
        log:
            product("logs/level0.log"),
        benchmark:
            product("benchmarks/level0.tsv")
        threads: RANKS
        resources:
            mpi=MPI,
            tasks=ranks,
            mem_mb=memory(1500),
            runtime=60,
        shell:
            RUN
