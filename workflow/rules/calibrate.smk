# Input: validation records. Output: policies fitted on them, and reliability diagrams, if there is max softmax.
DIAGRAMS = (
    {"reliability": f"{ROOT}/calibrate/{{system}}-s{{seed}}.parquet"} if "max_softmax" in contents_of(STUDY) else {}
)


rule calibrate:
    input:
        validation=expand(RECORD, split="validation", allow_missing=True),
        code=sources("policies", "evaluation.exits", "records.splitting"),
    output:
        **DIAGRAMS,
        policies=f"{ROOT}/calibrate/{{system}}-s{{seed}}.safetensors",
    log:
        f"{LOGS}/calibrate/{{system}}-s{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/calibrate/{{system}}-s{{seed}}.tsv"
    resources:
        **needs("calibrate", mem_mb=2000, runtime=10),
    params:
        policies=lambda wildcards: " ".join(
            f"--policy {label}={spec(options['policy'], without(options, 'policy', 'models'))}"
            for label, options in policies_of(STUDY, wildcards.system).items()
        ),
        calibration=flags(**STUDY["calibration"]),
        diagrams=lambda wildcards, output: flags(**{kind: output[kind] for kind in DIAGRAMS}),
    shell:
        "offramp calibrate {input.validation} {params.policies} {params.calibration}"
        " --out {output.policies} {params.diagrams} 2>&1 | tee {log}"


rule policies:
    input:
        [of_runs(path) for path in rules.calibrate.output],
