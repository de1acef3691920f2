rule index:
    input:
        unpack(inputs("index")),
    output:
        outputs("index"),
    log:
        product("logs/index.{run}.log"),
    benchmark:
        product("benchmarks/index.{run}.tsv")
    wildcard_constraints:
        run=runs_of("index"),
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("index"),
        runtime=BY_WORD["index"].minutes,
    params:
        config=section("index"),
        command=launch("index"),
    shell:
        RUN
