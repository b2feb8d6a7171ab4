# Input: validation records. Output: policies fitted on them, and reliability diagrams.


rule calibrate:
    input:
        validation=expand(RECORD, split="validation", allow_missing=True),
        code=sources("policies", "evaluation.exits"),
    output:
        policies=f"{ROOT}/calibrate/{{system}}-s{{seed}}.safetensors",
        reliability=f"{ROOT}/calibrate/{{system}}-s{{seed}}.parquet",
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
    shell:
        "offramp calibrate {input.validation} {params.policies} {params.calibration}"
        " --out {output.policies} --reliability {output.reliability} 2>&1 | tee {log}"


rule policies:
    input:
        of_runs(rules.calibrate.output.policies),
        of_runs(rules.calibrate.output.reliability),
