rule mosaic:
    input:
        given("mosaic"),
        annulus=product(f"{CONFIG.mosaic.shoeboxes}.h5"),
    output:
        product("mosaic.h5"),
    log:
        product("logs/mosaic.log"),
    benchmark:
        product("benchmarks/mosaic.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(3000),
        runtime=240,
    params:
        config=section("mosaic"),
        command=launch("mosaic"),
    shell:
        RUN
