use rule index as reindex with:
    input:
        given("reindex"),
        images=images,
        geometry=str(CONFIG.level0.from_file or product("level0.expt")),
    output:
        product("{run}/reindex.h5"),
    log:
        product("logs/reindex.{run}.log"),
    benchmark:
        product("benchmarks/reindex.{run}.tsv")
    wildcard_constraints:
        run="|".join(FOUND) or "$^",
    params:
        config=section("reindex"),
        command=launch("reindex"),
