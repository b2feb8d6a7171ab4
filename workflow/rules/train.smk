# Input: the splits. Output: the weights and the training history of each model and seed.


rule train:
    input:
        splits=rules.data.output.splits,
        code=lambda wildcards: model_code(wildcards.system, "training.captioning" if OF_CAPTIONS else "training.loop"),
    output:
        weights=f"{ROOT}/train/{{system}}-s{{seed}}.safetensors",
        history=f"{ROOT}/train/{{system}}-s{{seed}}.csv",
    log:
        f"{LOGS}/train/{{system}}-s{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/train/{{system}}-s{{seed}}.tsv"
    wildcard_constraints:
        system=one_of(TRAINED),
    priority: lambda wildcards: -int(wildcards.seed)  # seed by seed: an interrupted study has complete seeds
    threads: lambda wildcards: cores(wildcards.system)
    resources:
        **needs("train", mem_mb=4000, runtime=120),
    params:
        dataset=lambda wildcards: dataset_spec(dataset_of(STUDY, wildcards.system)),
        model=lambda wildcards: spec(
            STUDY["models"][wildcards.system]["model"],
            without(STUDY["models"][wildcards.system], "model", "training", "dataset"),
        ),
        training=lambda wildcards: flags(
            **{
                {"milestones": "milestone"}.get(key, key): value
                for key, value in without(training_of(STUDY, wildcards.system), "processes").items()
            }
        ),
        command=lambda wildcards: launch(training_of(STUDY, wildcards.system).get("processes", 1)),
        verb=lambda wildcards, input: "train-captioner" if OF_CAPTIONS else f"train --splits {input.splits}",
    shell:
        "{params.command} {params.verb} --dataset {params.dataset} --model {params.model}"
        " --system {wildcards.system} --seed {wildcards.seed} {params.training}"
        " --out {output.weights} --history {output.history} 2>&1 | tee {log}"


rule models:
    input:
        of_runs(rules.train.output.weights, TRAINED),
        of_runs(rules.train.output.history, TRAINED),
