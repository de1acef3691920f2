rule simulate:
    input:
        given("structure_factors"),
        given("beam"),
    output:
        str(CONFIG.data / "{run}" / "manifest.json"),
    log:
        product("logs/simulate.{run}.log"),
    benchmark:
        product("benchmarks/simulate.{run}.tsv")
    wildcard_constraints:
        run="|".join(SIMULATED) or "$^",
    conda:
        "../envs/spreadflow.yaml"
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(2000),
        runtime=240,
    params:
        config=section("simulate"),
        command=launch("simulate"),
    shell:
        RUN
