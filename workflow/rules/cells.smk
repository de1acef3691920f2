rule cells:
    input:
        unpack(inputs("cells")),
    output:
        outputs("cells"),
    log:
        product("logs/cells.log"),
    benchmark:
        product("benchmarks/cells.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: 1
    resources:
        mpi="",
        tasks=1,
        mem_mb=BY_WORD["cells"].memory_mb,
        runtime=BY_WORD["cells"].minutes,
    params:
        config=section("cells"),
        command=launch("cells"),
    shell:
        RUN
