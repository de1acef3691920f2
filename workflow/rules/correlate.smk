rule correlate:
    input:
        unpack(inputs("correlate")),
    output:
        outputs("correlate"),
    log:
        product("logs/correlate.{run}.log"),
    benchmark:
        product("benchmarks/correlate.{run}.tsv")
    wildcard_constraints:
        run=runs_of("correlate"),
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=lambda wildcards, threads: commands.ranks_with_roles(CONFIG, wildcards.run, threads),
        mem_mb=memory("correlate"),
        runtime=BY_WORD["correlate"].minutes,
    params:
        config=section("correlate"),
        command=launch("correlate"),
    shell:
        RUN
