rule stage1:
    input:
        given("stage1"),
        **({"mosaic": product("mosaic.h5")} if IS_LEARNED else {}),
        annulus=product(f"{CONFIG.stage1.range}.h5"),
    output:
        product("stage1.h5"),
        product("stage1.csv"),
    log:
        product("logs/stage1.log"),
    benchmark:
        product("benchmarks/stage1.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(2000),
        runtime=240,
    params:
        config=section("stage1"),
        command=launch("stage1"),
    shell:
        RUN
