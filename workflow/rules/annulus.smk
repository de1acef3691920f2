rule annulus:
    input:
        unpack(inputs("annulus")),
    output:
        outputs("annulus"),
    log:
        product("logs/annulus.log"),
    benchmark:
        product("benchmarks/annulus.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("annulus"),
        runtime=BY_WORD["annulus"].minutes,
    params:
        config=section("annulus"),
        command=launch("annulus"),
    shell:
        RUN
