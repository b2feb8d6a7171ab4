# Input: the weights, or the stored outputs of models, and the splits. Output: the exit records on validation and test
# data, also of cascades and routers, which are computed from the records of their models. All later steps read records
# only and do not need torch.


rule record:
    input:
        weights=lambda wildcards: weights_of(wildcards.system, wildcards.seed),
        splits=rules.data.output.splits,
        code=lambda wildcards: model_code(wildcards.system, "recording"),
    output:
        validation=f"{ROOT}/records/{{system}}-s{{seed}}/validation.safetensors",
        test=f"{ROOT}/records/{{system}}-s{{seed}}/test.safetensors",
    log:
        f"{LOGS}/record/{{system}}-s{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/record/{{system}}-s{{seed}}.tsv"
    wildcard_constraints:
        system=one_of([] if OF_CAPTIONS else STUDY["models"]),
    threads: 1
    resources:
        **needs("record", mem_mb=4000, runtime=30),
    params:
        model=lambda wildcards, input: recorded_from(wildcards.system, input.weights),
        workers=lambda wildcards: training_of(STUDY, wildcards.system).get("workers", 0),
    shell:
        "offramp record {params.model} --splits {input.splits} --validation {output.validation}"
        " --test {output.test} --threads {threads} --workers {params.workers} 2>&1 | tee {log}"


# Of captioners, a sample is a word of a caption: a given one, or one that the full model writes
rule tokens:
    input:
        weights=rules.train.output.weights,
        code=lambda wildcards: model_code(wildcards.system, "tokens"),
    output:
        validation=f"{ROOT}/records/{{system}}-s{{seed}}/validation.safetensors",
        test=f"{ROOT}/records/{{system}}-s{{seed}}/test.safetensors",
        generated=f"{ROOT}/records/{{system}}-s{{seed}}/generated.safetensors",
    log:
        f"{LOGS}/record/{{system}}-s{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/record/{{system}}-s{{seed}}.tsv"
    wildcard_constraints:
        system=one_of(STUDY["models"] if OF_CAPTIONS else []),
    threads: 1
    resources:
        **needs("record", mem_mb=4000, runtime=30),
    params:
        logits="" if "logits" in contents_of(STUDY) else "--no-logits",
    shell:
        "offramp record-tokens {input.weights} --validation {output.validation} --test {output.test}"
        " --generated {output.generated} {params.logits} --threads {threads} 2>&1 | tee {log}"


rule seconds:
    input:
        weights=lambda wildcards: weights_of(wildcards.system, wildcards.seed),
        splits=rules.data.output.splits,
        code=lambda wildcards: model_code(wildcards.system, "recording"),
    output:
        f"{ROOT}/records/{{system}}-s{{seed}}/seconds.csv",
    log:
        f"{LOGS}/seconds/{{system}}-s{{seed}}.log",
    wildcard_constraints:
        system=one_of(STUDY["models"]),
    threads: 1
    resources:
        **needs("record", mem_mb=4000, runtime=30),
    params:
        model=lambda wildcards, input: recorded_from(wildcards.system, input.weights),
    shell:
        "offramp record {params.model} --splits {input.splits} --seconds {output} --threads {threads} 2>&1 | tee {log}"


rule cascade:
    input:
        records=lambda wildcards: expand(
            f"{ROOT}/records/{{stage}}-s{{seed}}/{{split}}.safetensors",
            stage=members(wildcards.system),
            seed=wildcards.seed,
            split=wildcards.split,
        ),
        code=sources("cascades.building"),
    output:
        f"{ROOT}/records/{{system}}-s{{seed}}/{{split}}.safetensors",
    log:
        f"{LOGS}/cascade/{{system}}-s{{seed}}-{{split}}.log",
    benchmark:
        f"{BENCHMARKS}/cascade/{{system}}-s{{seed}}-{{split}}.tsv"
    wildcard_constraints:
        system=one_of(COMPOSED),
    resources:
        **needs("cascade", mem_mb=2000, runtime=10),
    params:
        verb=lambda wildcards: "router" if wildcards.system in STUDY["routers"] else "cascade",
    shell:
        "offramp {params.verb} {input.records} --system {wildcards.system} --out {output} 2>&1 | tee {log}"


RECORD = rules.cascade.output[0]


rule records:
    input:
        of_runs(expand(RECORD, split=["validation", "test"], allow_missing=True), [*STUDY["models"], *COMPOSED]),
        of_runs(rules.seconds.output[0], TIMED),
        of_runs(rules.tokens.output.generated) if OF_CAPTIONS else [],
