rule ladder:
    input:
        unpack(inputs("ladder")),
    output:
        outputs("ladder"),
    log:
        product("logs/ladder.log"),
    benchmark:
        product("benchmarks/ladder.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("ladder"),
        runtime=BY_WORD["ladder"].minutes,
    params:
        config=section("ladder"),
        command=launch("ladder"),
    shell:
        RUN
