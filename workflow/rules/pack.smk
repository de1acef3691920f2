rule pack:
    input:
        unpack(inputs("pack")),
    output:
        outputs("pack"),
    log:
        product("logs/pack.log"),
    benchmark:
        product("benchmarks/pack.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("pack"),
        runtime=BY_WORD["pack"].minutes,
    params:
        config=section("pack"),
        command=launch("pack"),
    shell:
        RUN
