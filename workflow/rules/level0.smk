if "level0" in STAGES:

    rule level0:
        input:
            index=of_runs("index", CONFIG.level0.runs or FOUND),
        output:
            product("level0.expt"),
        log:
            product("logs/level0.log"),
        benchmark:
            product("benchmarks/level0.tsv")
        conda:
            "../envs/spreadflow.yaml"
        threads: RANKS
        resources:
            mpi=MPI,
            tasks=ranks,
            mem_mb=memory(1500),
            runtime=60,
        params:
            config=section("level0"),
            command=launch("level0"),
        shell:
            RUN
