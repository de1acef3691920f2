rule simulate:
    input:
        given(CONFIG.crystal.model),
        [site.curve for site in CONFIG.crystal.sites if Path(site.curve).suffix],
    output:
        str(CONFIG.data / "{run}" / "manifest.json"),
    params:
        config=section("simulate"),
        command=launch("simulate"),
    log:
        product("logs/simulate.{run}.log"),
    benchmark:
        product("benchmarks/simulate.{run}.tsv")
    wildcard_constraints:
        run="|".join(SIMULATED) or "$^",
    threads: RANKS
    resources:
        mpi=MPI,
        tasks=ranks,
        mem_mb=memory(2000),
        runtime=240,
    shell:
        RUN
