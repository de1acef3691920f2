rule stage1:
    input:
        unpack(inputs("stage1")),
    output:
        outputs("stage1"),
    log:
        product("logs/stage1.log"),
    benchmark:
        product("benchmarks/stage1.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("stage1"),
        runtime=BY_WORD["stage1"].minutes,
    params:
        config=section("stage1"),
        command=launch("stage1"),
    shell:
        RUN
