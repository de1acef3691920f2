rule predict:
    input:
        unpack(inputs("predict")),
    output:
        outputs("predict"),
    log:
        product("logs/predict.log"),
    benchmark:
        product("benchmarks/predict.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("predict"),
        runtime=BY_WORD["predict"].minutes,
    params:
        config=section("predict"),
        command=launch("predict"),
    shell:
        RUN
