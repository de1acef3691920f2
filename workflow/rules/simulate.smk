rule simulate:
    input:
        unpack(inputs("simulate")),
    output:
        outputs("simulate"),
    log:
        product("logs/simulate.{run}.log"),
    benchmark:
        product("benchmarks/simulate.{run}.tsv")
    wildcard_constraints:
        run=runs_of("simulate"),
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("simulate"),
        runtime=BY_WORD["simulate"].minutes,
    params:
        config=section("simulate"),
        command=launch("simulate"),
    shell:
        RUN
