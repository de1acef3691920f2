use rule annulus as wide with:
    input:
        unpack(inputs("wide")),
    output:
        outputs("wide"),
    log:
        product("logs/wide.log"),
    benchmark:
        product("benchmarks/wide.tsv")
    params:
        config=section("wide"),
        command=launch("wide"),
