rule mosaic:
    input:
        unpack(inputs("mosaic")),
    output:
        outputs("mosaic"),
    log:
        product("logs/mosaic.log"),
    benchmark:
        product("benchmarks/mosaic.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: MAX_RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory("mosaic"),
        runtime=BY_WORD["mosaic"].minutes,
    params:
        config=section("mosaic"),
        command=launch("mosaic"),
    shell:
        RUN
