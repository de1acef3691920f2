use rule annulus as wide with:
    output:
        product("wide.h5"),
    log:
        product("logs/wide.log"),
    benchmark:
        product("benchmarks/wide.tsv")
    params:
        config=section("wide"),
        command=launch("wide"),
