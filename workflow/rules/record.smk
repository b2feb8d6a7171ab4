# In: the weights and the splits. Out: the exit records of validation and test, the border of the pipeline.


rule record:
    input:
        weights=rules.train.output.weights,
        splits=rules.data.output,
        code=lambda wildcards: RECORDS
        + model_code(wildcards.system)
        + code("recording", "costs", "checkpoints", "training"),
    output:
        validation=f"{ROOT}/records/{{system}}-s{{seed}}/validation.safetensors",
        test=f"{ROOT}/records/{{system}}-s{{seed}}/test.safetensors",
    log:
        f"{LOGS}/record/{{system}}-s{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/record/{{system}}-s{{seed}}.tsv"
    threads: 1
    resources:
        **needs("record", mem_mb=4000, runtime=30),
    params:
        workers=lambda wildcards: training_of(STUDY, wildcards.system).get("workers", 0),
    shell:
        "offramp record {input.weights} --splits {input.splits} --validation {output.validation}"
        " --test {output.test} --threads {threads} --workers {params.workers} 2>&1 | tee {log}"


rule records:
    input:
        expand(
            f"{ROOT}/records/{{run}}/{{split}}.safetensors",
            run=RUNS,
            split=["validation", "test"],
        ),
