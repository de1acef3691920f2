use rule index as adopt with:
    input:
        given("reindex"),
        images=images,
        spec=lambda wildcards: str(CONFIG.runs[wildcards.run].spec),
    output:
        product("{run}/reindex.h5"),
        product("{run}/adopt.h5"),
    log:
        product("logs/adopt.{run}.log"),
    benchmark:
        product("benchmarks/adopt.{run}.tsv")
    wildcard_constraints:
        run="|".join(TOLD) or "$^",
    params:
        config=section("adopt"),
        command=launch("adopt"),
