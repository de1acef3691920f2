rule spread:
    input:
        unpack(inputs("spread")),
    output:
        outputs("spread"),
    log:
        product("logs/spread.log"),
    benchmark:
        product("benchmarks/spread.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("spread"),
        mem_mb_per_cpu=rank_memory("spread"),
        runtime=BY_WORD["spread"].minutes,
    params:
        config=section("spread"),
        command=launch("spread"),
    shell:
        RUN
