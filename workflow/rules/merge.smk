rule merge:
    input:
        unpack(inputs("merge")),
    output:
        outputs("merge"),
    log:
        product("logs/merge.log"),
    benchmark:
        product("benchmarks/merge.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("merge"),
        mem_mb_per_cpu=rank_memory("merge"),
        runtime=BY_WORD["merge"].minutes,
    params:
        config=section("merge"),
        command=launch("merge"),
    shell:
        RUN
