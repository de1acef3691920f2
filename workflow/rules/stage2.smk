rule stage2:
    input:
        unpack(inputs("stage2")),
    output:
        outputs("stage2"),
    log:
        product("logs/stage2.log"),
    benchmark:
        product("benchmarks/stage2.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("stage2"),
        mem_mb_per_cpu=rank_memory("stage2"),
        runtime=BY_WORD["stage2"].minutes,
    params:
        config=section("stage2"),
        command=launch("stage2"),
    shell:
        RUN
