rule index:
    input:
        given("index"),
        images=images,
    output:
        product("{run}/index.h5"),
    log:
        product("logs/index.{run}.log"),
    benchmark:
        product("benchmarks/index.{run}.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(1500),
        runtime=240,
    params:
        config=section("index"),
        command=launch("index"),
    shell:
        RUN
