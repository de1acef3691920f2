rule merge:
    input:
        unpack(inputs("merge")),
    output:
        outputs("merge"),
    log:
        product("logs/merge.log"),
    benchmark:
        product("benchmarks/merge.tsv")
    conda:
        "../envs/spreadflow.yaml"
    threads: 1
    resources:
        mpi="",
        tasks=1,
        mem_mb=BY_WORD["merge"].memory_mb,
        runtime=BY_WORD["merge"].minutes,
    params:
        config=section("merge"),
        command=launch("merge"),
    shell:
        RUN
