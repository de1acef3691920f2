if "level0" in STAGES:

    rule level0:
        input:
            unpack(inputs("level0")),
        output:
            outputs("level0"),
        log:
            product("logs/level0.log"),
        benchmark:
            product("benchmarks/level0.tsv")
        conda:
            "../envs/spreadflow.yaml"
        threads: MAX_RANKS
        resources:
            mpi=MPI,
            tasks=ranks,
            mem_mb=memory("level0"),
            mem_mb_per_cpu=rank_memory("level0"),
            runtime=BY_WORD["level0"].minutes,
        params:
            config=section("level0"),
            command=launch("level0"),
        shell:
            RUN
