use rule index as adopt with:
    input:
        unpack(inputs("adopt")),
    output:
        outputs("adopt"),
    log:
        product("logs/adopt.{run}.log"),
    benchmark:
        product("benchmarks/adopt.{run}.tsv")
    wildcard_constraints:
        run=runs_of("adopt"),
    params:
        config=section("adopt"),
        command=launch("adopt"),
