use rule index as reindex with:
    input:
        unpack(inputs("reindex")),
    output:
        outputs("reindex"),
    log:
        product("logs/reindex.{run}.log"),
    benchmark:
        product("benchmarks/reindex.{run}.tsv")
    wildcard_constraints:
        run=runs_of("reindex"),
    params:
        config=section("reindex"),
        command=launch("reindex"),
