rule spread:
    input:
        given("spread"),
        given("stage1"),
        **({"mosaic": product("mosaic.h5")} if IS_LEARNED else {}),
        wide=product("wide.h5"),
        stage1=product("stage1.h5"),
    output:
        product("spread.h5"),
        product("spread.csv"),
    log:
        product("logs/spread.log"),
    benchmark:
        product("benchmarks/spread.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(3000),
        runtime=480,
    params:
        config=section("spread"),
        command=launch("spread"),
    shell:
        RUN
