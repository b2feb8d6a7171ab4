# Input: fitted policies and test records. Output: curves and frontiers of each run, and comparisons between runs.


rule evaluate:
    input:
        policies=rules.calibrate.output.policies,
        test=expand(RECORD, split="test", allow_missing=True),
        code=sources("evaluation.curves", "evaluation.exits"),
    output:
        curve=f"{REPORT}/curves/{{system}}-s{{seed}}.parquet",
        frontier=f"{ROOT}/evaluate/{{system}}-s{{seed}}/frontier.parquet",
        exits=f"{ROOT}/evaluate/{{system}}-s{{seed}}/exits.parquet",
    log:
        f"{LOGS}/evaluate/{{system}}-s{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/evaluate/{{system}}-s{{seed}}.tsv"
    resources:
        **needs("evaluate", mem_mb=2000, runtime=10),
    params:
        grids=lambda wildcards: flags(thresholds=grids(wildcards.system)),
        bins=flags(bins=STUDY["calibration"]["bins"]),
    shell:
        "offramp evaluate --policies {input.policies} --test {input.test} {params.grids}"
        " {params.bins} --out {output.curve} --frontier {output.frontier} --exits {output.exits} 2>&1 | tee {log}"


RECORDS_OF_SYSTEMS = of_runs(expand(RECORD, split=["validation", "test"], allow_missing=True))


rule compare:
    input:
        records=RECORDS_OF_SYSTEMS,
        policies=of_runs(rules.calibrate.output.policies),
        code=sources(
            *(f"comparison.{name}" for name in ("claims", "matched", "promises", "ranking", "rejection")),
        ),
    output:
        targets=f"{ROOT}/evaluate/targets.parquet",
        pairs=f"{ROOT}/evaluate/pairs.parquet",
        control=f"{ROOT}/evaluate/control.parquet",
        speedup=f"{ROOT}/evaluate/speedup.parquet",
        duels=f"{ROOT}/evaluate/duels.parquet",
        rejection=f"{ROOT}/evaluate/rejection.parquet",
        promises=f"{ROOT}/evaluate/promises.parquet",
        efficiency=f"{ROOT}/evaluate/efficiency.parquet",
    log:
        f"{LOGS}/compare.log",
    benchmark:
        f"{BENCHMARKS}/compare.tsv"
    resources:
        **needs("compare", mem_mb=4000, runtime=30),
    params:
        grid=grid(STUDY["delta"]),
        targets=flags(target=STUDY["comparison"]["targets"]),
        pairs=" ".join(f"--pair {small} {large}" for small, large in STUDY["comparison"]["pairs"]),
        duels=" ".join(f"--duel {policy} {rival}" for policy, rival in STUDY["duels"]),
        others=flags(**without(STUDY["comparison"], "targets", "pairs", "duels", "level", "samples")),
    shell:
        "offramp compare {input.records} {input.policies} --grid {params.grid} {params.targets} {params.pairs}"
        " {params.duels} {params.others} --targets-out {output.targets} --pairs-out {output.pairs}"
        " --control-out {output.control} --speedup-out {output.speedup} --duels-out {output.duels}"
        " --rejection-out {output.rejection} --promises-out {output.promises} --efficiency-out {output.efficiency}"
        " 2>&1 | tee {log}"


# The sensitivity study varies one factor at a time. Each option is FACTOR/SETTING=POLICY:options.
VARIANTS = [
    "--variant "
    + shlex.quote(f"{factor}/{variant['setting']}=")
    + spec(variant["policy"], without(variant, "setting", "policy"))
    for factor, variants in STUDY["sensitivity"].get("factors", {}).items()
    for variant in variants
]


rule sensitivity:
    input:
        records=RECORDS_OF_SYSTEMS,
        code=sources("comparison.sensitivity"),
    output:
        f"{ROOT}/evaluate/sensitivity.parquet",
    log:
        f"{LOGS}/sensitivity.log",
    benchmark:
        f"{BENCHMARKS}/sensitivity.tsv"
    resources:
        **needs("sensitivity", mem_mb=6000, runtime=60),
    params:
        grid=grid(STUDY["delta"]),
        draws=STUDY["sensitivity"].get("draws"),
        resamples=STUDY["comparison"]["resamples"],
        variants=" ".join(VARIANTS),
    shell:
        "offramp sensitivity {input.records} --grid {params.grid} --draws {params.draws}"
        " --resamples {params.resamples} {params.variants} --out {output} 2>&1 | tee {log}"


# What policies gain at equal cost with fewer validation samples
SAMPLES = STUDY["comparison"].get("samples", []) if STUDY["duels"] else []


rule learning_curve:
    input:
        records=RECORDS_OF_SYSTEMS,
        policies=of_runs(rules.calibrate.output.policies),
        code=sources("comparison.samples"),
    output:
        f"{ROOT}/evaluate/learning-curve.parquet",
    log:
        f"{LOGS}/learning-curve.log",
    benchmark:
        f"{BENCHMARKS}/learning-curve.tsv"
    resources:
        **needs("learning_curve", mem_mb=4000, runtime=60),
    params:
        samples=flags(samples=SAMPLES),
        duels=rules.compare.params.duels,
        resamples=STUDY["comparison"]["resamples"],
    shell:
        "offramp learning-curve {input.records} {input.policies} {params.samples} {params.duels}"
        " --resamples {params.resamples} --out {output} 2>&1 | tee {log}"


# Which cascades are searched, and over which accuracies
SEARCH = " ".join(
    [f"--band {low} {high}" for low, high in STUDY["search"].get("bands", [])]
    + [f"--step {STUDY['search'].get('step')}", flags(fit_share=STUDY["calibration"]["fit_share"])]
    + [f"--variant {spec(name, options)}" for name, options in STUDY["search"].get("variants", {}).items()]
)
RECORDS_OF_SINGLES = of_runs(expand(RECORD, split=["validation", "test"], allow_missing=True), SINGLES)


rule search:
    input:
        records=RECORDS_OF_SINGLES,
        code=sources("comparison.cascades"),
    output:
        models=f"{ROOT}/evaluate/models.parquet",
        relations=f"{ROOT}/evaluate/relations.parquet",
        choices=f"{ROOT}/evaluate/choices.parquet",
        reductions=f"{ROOT}/evaluate/reductions.parquet",
        replacements=f"{ROOT}/evaluate/replacements.parquet",
        measures=f"{ROOT}/evaluate/measures.parquet",
    log:
        f"{LOGS}/search.log",
    benchmark:
        f"{BENCHMARKS}/search.tsv"
    threads: 2
    resources:
        **needs("search", mem_mb=4000, runtime=60),
    params:
        search=SEARCH,
        resamples=STUDY["comparison"]["resamples"],
    shell:
        "offramp search {input.records} {params.search}"
        " --resamples {params.resamples} --models-out {output.models} --relations-out {output.relations}"
        " --choices-out {output.choices} --reductions-out {output.reductions}"
        " --replacements-out {output.replacements} --measures-out {output.measures} 2>&1 | tee {log}"


# The search on other random splits, also with published times as the cost. Measured times differ from run to run
rule resplit:
    input:
        records=RECORDS_OF_SINGLES,
        seconds=of_runs(rules.seconds.output[0], [model for model in TIMED if model not in TRAINED]),
        code=sources("comparison.resplitting"),
    output:
        f"{ROOT}/evaluate/resplits.parquet",
    log:
        f"{LOGS}/resplit.log",
    benchmark:
        f"{BENCHMARKS}/resplit.tsv"
    threads: 2
    resources:
        **needs("resplit", mem_mb=4000, runtime=60),
    params:
        search=SEARCH,
        splits=STUDY["search"].get("splits"),
        seconds=lambda wildcards, input: flags(seconds=list(input.seconds)),
    shell:
        "offramp resplit {input.records} {params.search} --splits {params.splits} {params.seconds}"
        " --out {output} 2>&1 | tee {log}"


# How much faster each policy is in seconds, with the models of the first seed
rule times:
    input:
        weights=lambda wildcards: expand(
            rules.train.output.weights, system=members(wildcards.system), seed=wildcards.seed
        ),
        splits=rules.data.output.splits,
        policies=rules.calibrate.output.policies,
        validation=expand(RECORD, split="validation", allow_missing=True),
        test=expand(RECORD, split="test", allow_missing=True),
        code=lambda wildcards: model_code(wildcards.system, "recording", "runtime.timing", "records.splitting"),
    output:
        f"{ROOT}/evaluate/{{system}}-s{{seed}}/times.csv",
    log:
        f"{LOGS}/times/{{system}}-s{{seed}}.log",
    benchmark:
        f"{BENCHMARKS}/times/{{system}}-s{{seed}}.tsv"
    resources:
        **needs("times", mem_mb=4000, runtime=60),
    params:
        sizes=flags(batch_size=STUDY["times"].get("batch_sizes", [])),
    shell:
        "offramp time {input.weights} --splits {input.splits} --policies {input.policies}"
        " --validation {input.validation} --test {input.test} {params.sizes} --out {output} 2>&1 | tee {log}"


TIMES = expand(rules.times.output[0], system=STUDY["times"].get("systems", []), seed=STUDY["seeds"][0])


# The answers of models to corrupted test samples
rule shifted:
    input:
        weights=lambda wildcards: weights_of(wildcards.system, wildcards.seed),
        splits=rules.data.output.splits,
        code=lambda wildcards: model_code(wildcards.system, "recording", "datasets.corruptions"),
    output:
        f"{ROOT}/evaluate/{{system}}-s{{seed}}/test-{{corruption}}-{{severity}}.safetensors",
    log:
        f"{LOGS}/shifted/{{system}}-s{{seed}}-{{corruption}}-{{severity}}.log",
    benchmark:
        f"{BENCHMARKS}/shifted/{{system}}-s{{seed}}-{{corruption}}-{{severity}}.tsv"
    wildcard_constraints:
        system=one_of(TRAINED),
        corruption=one_of(CORRUPTIONS),
        severity="[1-5]",
    threads: 1
    resources:
        **needs("record", mem_mb=4000, runtime=30),
    params:
        workers=lambda wildcards: training_of(STUDY, wildcards.system).get("workers", 0),
    shell:
        "offramp record {input.weights} --splits {input.splits} --corruption {wildcards.corruption}:{wildcards.severity}"
        " --test {output} --threads {threads} --workers {params.workers} 2>&1 | tee {log}"


SHIFTS = STUDY["shifts"]
SHIFTED = of_runs(
    expand(
        rules.shifted.output[0],
        corruption=SHIFTS.get("kinds", []),
        severity=SHIFTS.get("severities", []),
        allow_missing=True,
    ),
    SHIFTS.get("systems", []),
)


# What becomes of the promises of each policy if the inputs are corrupted
rule shift:
    input:
        records=of_runs(expand(RECORD, split=["validation", "test"], allow_missing=True), SHIFTS.get("systems", [])),
        corrupted=SHIFTED,
        policies=of_runs(rules.calibrate.output.policies, SHIFTS.get("systems", [])),
        code=sources("comparison.shift"),
    output:
        f"{ROOT}/evaluate/shift.parquet",
    log:
        f"{LOGS}/shift.log",
    benchmark:
        f"{BENCHMARKS}/shift.tsv"
    resources:
        **needs("shift", mem_mb=6000, runtime=60),
    params:
        targets=flags(target=STUDY["comparison"]["targets"]),
        level=flags(**{key: value for key, value in STUDY["comparison"].items() if key in ("level", "resamples")}),
        bins=flags(bins=STUDY["calibration"]["bins"], frequencies=SHIFTS.get("severities", [])),
    shell:
        "offramp shift {input.records} {input.corrupted} {input.policies} {params.targets} {params.level}"
        " {params.bins} --out {output} 2>&1 | tee {log}"


# Static and online policies over streams whose corruption grows. Online policies update PCEE's maps
DRIFTS = SHIFTED and any(its["policy"] == "pcee" and its.get("fit_on") != "reached" for its in POLICIES.values())


rule drift:
    input:
        records=rules.shift.input.records,
        corrupted=SHIFTED,
        policies=rules.shift.input.policies,
        code=sources("comparison.drift"),
    output:
        f"{ROOT}/evaluate/drift.parquet",
    log:
        f"{LOGS}/drift.log",
    benchmark:
        f"{BENCHMARKS}/drift.tsv"
    resources:
        **needs("drift", mem_mb=4000, runtime=60),
    params:
        target=min(STUDY["comparison"]["targets"]),
    shell:
        "offramp drift {input.records} {input.corrupted} {input.policies} --target {params.target} --out {output}"
        " 2>&1 | tee {log}"


# An exit at every block of models that answer once. It learns the answers of the model that is made faster
ACCELERATED = STUDY["accelerate"].get("models", {})


rule heads:
    input:
        weights=lambda wildcards: weights_of(wildcards.system, wildcards.seed),
        teacher=f"{ROOT}/records/{{teacher}}-s{{seed}}/validation.safetensors",
        splits=rules.data.output,
        code=lambda wildcards: model_code(wildcards.system, "acceleration.recording"),
    output:
        validation=f"{ROOT}/evaluate/{{system}}-s{{seed}}/exits-of-{{teacher}}-validation.safetensors",
        test=f"{ROOT}/evaluate/{{system}}-s{{seed}}/exits-of-{{teacher}}-test.safetensors",
    log:
        f"{LOGS}/heads/{{system}}-s{{seed}}-{{teacher}}.log",
    benchmark:
        f"{BENCHMARKS}/heads/{{system}}-s{{seed}}-{{teacher}}.tsv"
    wildcard_constraints:
        system=one_of(TRAINED),
        teacher=one_of(ACCELERATED),
    threads: 1
    resources:
        **needs("record", mem_mb=4000, runtime=60),
    shell:
        "offramp record-exits {input.weights} --splits {input.splits} --teacher {input.teacher}"
        " --validation {output.validation} --test {output.test} --threads {threads} 2>&1 | tee {log}"


# How often the promises of accelerated models are kept, and what they save
rule accelerations:
    input:
        exits=[
            path
            for teacher, smaller in ACCELERATED.items()
            for path in expand(rules.heads.output, teacher=teacher, system=[*smaller, teacher], seed=STUDY["seeds"])
        ],
        joint=of_runs(
            expand(RECORD, split=["validation", "test"], allow_missing=True), STUDY["accelerate"].get("joint", [])
        ),
        code=sources("acceleration.evaluating"),
    output:
        f"{ROOT}/evaluate/accelerations.parquet",
    log:
        f"{LOGS}/accelerations.log",
    benchmark:
        f"{BENCHMARKS}/accelerations.tsv"
    resources:
        **needs("accelerations", mem_mb=4000, runtime=60),
    params:
        options=flags(level=STUDY["accelerate"].get("levels", []), draws=STUDY["accelerate"].get("draws", 0)),
    shell:
        "offramp accelerations {input.exits} {input.joint} {params.options} --out {output} 2>&1 | tee {log}"


CAPTIONS = STUDY["captions"]  # {} if the models write none
# Captions of one policy at many thresholds. Policies that learn are also fitted on what the full model writes
SWEPT = {label: POLICIES[label] for label in CAPTIONS.get("policies", [])}
SWEEPS = expand(
    f"{ROOT}/evaluate/{{{{system}}}}-s{{{{seed}}}}/captions/{{of}}/{{{{table}}}}.{{{{suffix}}}}",
    of=[f"validation/{label}" for label in SWEPT]
    + [f"generated/{label}" for label, its in SWEPT.items() if make_policy(its["policy"]).learns]
    + ["validation/calm"] * ("calm" in CAPTIONS),
)


rule sweep_captions:
    input:
        weights=rules.train.output.weights,
        tokens=f"{ROOT}/records/{{system}}-s{{seed}}/{{tokens}}.safetensors",
        code=lambda wildcards: model_code(wildcards.system, "captioning"),
    output:
        points=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/{{tokens}}/{{policy}}/points.parquet",
        captions=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/{{tokens}}/{{policy}}/captions.parquet",
        seconds=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/{{tokens}}/{{policy}}/seconds.csv",
    log:
        f"{LOGS}/captions/{{system}}-s{{seed}}-{{tokens}}-{{policy}}.log",
    benchmark:
        f"{BENCHMARKS}/captions/{{system}}-s{{seed}}-{{tokens}}-{{policy}}.tsv"
    wildcard_constraints:
        tokens="validation|generated",
        policy=one_of(SWEPT),
    priority: lambda wildcards: -int(wildcards.seed)
    threads: 1
    resources:
        **needs("captions", mem_mb=4000, runtime=120),
    params:
        policy=lambda wildcards: "{policy}={}".format(
            spec(SWEPT[wildcards.policy]["policy"], without(SWEPT[wildcards.policy], "policy", "models")), **wildcards
        ),
        number=CAPTIONS.get("thresholds"),
        at_most=flags(at_most=CAPTIONS.get("at_most", [])),
        fills=lambda wildcards: flags(fill=["recompute"] + ["copy"] * (wildcards.tokens == "validation")),
    shell:
        "offramp sweep-captions {input.weights} {input.tokens} --policy {params.policy} --number {params.number}"
        " {params.at_most} {params.fills} --threads {threads} --points {output.points} --captions {output.captions}"
        " --seconds {output.seconds} 2>&1 | tee {log}"


rule calm_captions:
    input:
        weights=rules.train.output.weights,
        tokens=rules.tokens.output.validation,
        code=lambda wildcards: model_code(wildcards.system, "captioning"),
    output:
        points=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/validation/calm/points.parquet",
        captions=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/validation/calm/captions.parquet",
        seconds=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/validation/calm/seconds.csv",
        certified=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/validation/calm/certified.parquet",
    log:
        f"{LOGS}/captions/{{system}}-s{{seed}}-validation-calm.log",
    benchmark:
        f"{BENCHMARKS}/captions/{{system}}-s{{seed}}-validation-calm.tsv"
    priority: lambda wildcards: -int(wildcards.seed)
    threads: 1
    resources:
        **needs("captions", mem_mb=4000, runtime=120),
    params:
        score=CAPTIONS.get("calm", {}).get("score"),
        grid=lambda wildcards: grid(CAPTIONS["calm"]["thresholds"]),
        level=CAPTIONS.get("calm", {}).get("level"),
        at_most=flags(at_most=CAPTIONS.get("at_most", [])),
    shell:
        "offramp sweep-captions {input.weights} {input.tokens} --policy calm=confidence:score={params.score} --decay"
        " --thresholds {params.grid} --level {params.level} {params.at_most} --fill recompute --fill copy"
        " --threads {threads} --points {output.points} --captions {output.captions} --seconds {output.seconds}"
        " --certified {output.certified} 2>&1 | tee {log}"


rule full_captions:  # of the full model, word by word and by a beam search, for reference
    input:
        weights=rules.train.output.weights,
        code=lambda wildcards: model_code(wildcards.system, "captioning"),
    output:
        quality=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/full/{{beams}}.parquet",
        captions=f"{ROOT}/evaluate/{{system}}-s{{seed}}/captions/full/{{beams}}-captions.parquet",
    log:
        f"{LOGS}/captions/{{system}}-s{{seed}}-full-{{beams}}.log",
    benchmark:
        f"{BENCHMARKS}/captions/{{system}}-s{{seed}}-full-{{beams}}.tsv"
    wildcard_constraints:
        beams=r"\d+",
    priority: lambda wildcards: -int(wildcards.seed)
    threads: 1
    resources:
        **needs("captions", mem_mb=4000, runtime=120),
    shell:
        "offramp generate {input.weights} --split test --beams {wildcards.beams} --threads {threads}"
        " --out {output.captions} --quality {output.quality} 2>&1 | tee {log}"


FULL_CAPTIONS = (
    expand(of_runs(rules.full_captions.output.quality), beams=sorted({1, CAPTIONS["beams"]})) if CAPTIONS else []
)


rule compare_captions:
    input:
        points=captions_of_all("points"),
        captions=captions_of_all("captions"),
        code=sources("comparison.captions"),
    output:
        matched=f"{ROOT}/evaluate/captions/matched.parquet",
        pairs=f"{ROOT}/evaluate/captions/pairs.parquet",
        words=f"{ROOT}/evaluate/captions/words.parquet",
    log:
        f"{LOGS}/compare-captions.log",
    benchmark:
        f"{BENCHMARKS}/compare-captions.tsv"
    resources:
        **needs("captions", mem_mb=4000, runtime=120),
    params:
        at_most=flags(at_most=CAPTIONS.get("at_most", [])),
        resamples=STUDY["comparison"]["resamples"],
    shell:
        "offramp compare-captions {input.points} {input.captions} {params.at_most} --resamples {params.resamples}"
        " --matched {output.matched} --pairs {output.pairs} --words {output.words} 2>&1 | tee {log}"


rule curves:
    input:
        [of_runs(table) for table in rules.evaluate.output],
        rules.compare.output,
        rules.sensitivity.output if VARIANTS else [],
        rules.learning_curve.output if SAMPLES else [],
        rules.search.output if STUDY["search"] else [],
        rules.resplit.output if STUDY["search"].get("splits") else [],
        TIMES,
        rules.shift.output if SHIFTED else [],
        rules.drift.output if DRIFTS else [],
        rules.accelerations.output if ACCELERATED else [],
        [captions_of_all("points"), captions_of_all("captions"), captions_of_all("seconds", "csv")],
        rules.compare_captions.output if CAPTIONS else [],
        FULL_CAPTIONS,
