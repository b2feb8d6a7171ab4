# Input: curves, tables, records and reliability diagrams of all runs. Output: figures, tables and one report page.
# The catalogue (src/offramp/reports/catalogue.py) defines the inputs of each figure and table.
COMPARED, SEARCHED = rules.compare.output, rules.search.output
DIAGRAMS_OF, LAYERS_OF = STUDY["report"].get("reliability"), STUDY["report"].get("oracle")

# The files of each kind that the study creates
FILES = {
    "curve": of_runs(rules.evaluate.output.curve),
    "frontier": of_runs(rules.evaluate.output.frontier),
    "exits": of_runs(rules.evaluate.output.exits),
    **({"reliability": of_runs(rules.calibrate.output.reliability, [DIAGRAMS_OF])} if DIAGRAMS_OF else {}),
    **({"record": expand(RECORD, split="test", system=LAYERS_OF, seed=STUDY["seeds"][0])} if LAYERS_OF else {}),
    **{kind: [path] for kind, path in COMPARED.items() if kind != "control" or "baseline" in STUDY["comparison"]},
    **({"sensitivity": rules.sensitivity.output} if VARIANTS else {}),
    **({"learning curve": rules.learning_curve.output} if SAMPLES else {}),
    **({kind: [path] for kind, path in SEARCHED.items()} if STUDY["search"] else {}),
    **({"times": TIMES} if TIMES else {}),
    **({"shift": rules.shift.output} if SHIFTED else {}),
    **({"drift": rules.drift.output} if DRIFTS else {}),
    **({"accelerations": rules.accelerations.output} if ACCELERATED else {}),
    **({"resplits": rules.resplit.output} if STUDY["search"].get("splits") else {}),
    **({"seconds": of_runs(rules.seconds.output[0], TIMED)} if STUDY["search"] and TIMED else {}),
    **({"pictures": [rules.data.output.pictures]} if CAPTIONS else {}),
    **({"caption points": captions_of_all("points")} if CAPTIONS else {}),
    **({"captions": captions_of_all("captions")} if CAPTIONS else {}),
    **({"caption quality": FULL_CAPTIONS} if CAPTIONS else {}),
    **({"caption seconds": captions_of_all("seconds", "csv")} if CAPTIONS else {}),
    **({"matched captions": [rules.compare_captions.output.matched]} if CAPTIONS else {}),
    **({"caption pairs": [rules.compare_captions.output.pairs]} if CAPTIONS else {}),
    **({"words": [rules.compare_captions.output.words]} if CAPTIONS else {}),
    **({"certified captions": of_runs(rules.calm_captions.output.certified)} if "calm" in CAPTIONS else {}),
}
SYSTEM_OF = {"reliability": DIAGRAMS_OF, "record": LAYERS_OF}  # for kinds of files that belong to a single system
SETTINGS = {
    "pairs": STUDY["comparison"]["pairs"],
    "exits": STUDY["report"].get("reliability_exits"),
    "duels": STUDY["duels"],
    "variants": list(STUDY["search"].get("variants", ["the first", "default ones"]))[1:],  # compared with the first
    "baseline": STUDY["comparison"].get("baseline"),
    **{content: content in contents_of(STUDY) for content in ("quality", "prediction", "max_softmax")},
    "layers": not STUDY["routers"],
}
SHOWN = {"figure": shown_here(FIGURES), "table": shown_here(TABLES)}
PUBLIC = expand("data/timm/{table}.csv", table=["timm_pareto_2022-09", "timm_pareto"])
FILES["public models"] = PUBLIC  # belong to no study, and are stored in git


rule figure:
    input:
        files=lambda wildcards: [file for kind in entry_of("figure", wildcards).reads for file in FILES[kind]],
        code=lambda wildcards: sources(entry_of("figure", wildcards).module),
    output:
        multiext("{folder}/{stem}", ".pdf", ".png"),
    log:
        "logs/{folder}/figure-{stem}.log",
    wildcard_constraints:
        folder=one_of([f"{REPORT}/figures", "reports/public_zoo"]),
        stem=one_of([*SHOWN["figure"], "public-zoo"]),
    params:
        name=lambda wildcards: entry_of("figure", wildcards).name,
        options=lambda wildcards: options_of(entry_of("figure", wildcards)),
    shell:
        "offramp figure {params.name} {input.files} {params.options}"
        " --out {wildcards.folder}/{wildcards.stem} 2>&1 | tee {log}"


rule table:
    input:
        files=lambda wildcards: [file for kind in entry_of("table", wildcards).reads for file in FILES[kind]],
        code=lambda wildcards: sources(entry_of("table", wildcards).module),
    output:
        multiext("{folder}/{stem}", ".csv", ".md", ".tex"),
    log:
        "logs/{folder}/table-{stem}.log",
    wildcard_constraints:
        folder=one_of([f"{REPORT}/tables", "reports/public_zoo"]),
        stem=one_of([*SHOWN["table"], "public-zoo"]),
    params:
        name=lambda wildcards: entry_of("table", wildcards).name,
        options=lambda wildcards: options_of(entry_of("table", wildcards)),
    shell:
        "offramp table {params.name} {input.files} {params.options}"
        " --out {wildcards.folder}/{wildcards.stem} 2>&1 | tee {log}"


# The tables and the figure on the choices that the PCEE paper leaves open
rule choices:
    input:
        stems(f"{REPORT}/tables", ["calibration"] + (["sensitivity"] if VARIANTS else []), ["csv", "md", "tex"]),
        stems(f"{REPORT}/figures", ["sensitivity"] if VARIANTS else [], ["pdf", "png"]),


# The fronts of public models, and the exit rates that cascades need to improve on them
rule public_zoo:
    input:
        stems("reports/public_zoo", ["public-zoo"], ["pdf", "png", "csv", "md", "tex"]),


# Every policy at a few thresholds in detail, for the linked charts of the page
rule points:
    input:
        records=RECORDS_OF_SYSTEMS,
        policies=of_runs(rules.calibrate.output.policies),
        code=sources("comparison.points"),
    output:
        f"{REPORT}/points.parquet",
    log:
        f"{LOGS}/points.log",
    resources:
        **needs("compare", mem_mb=4000, runtime=30),
    params:
        weights=lambda wildcards: flags(weights=f"{ROOT}/train/{{system}}-s{{seed}}.safetensors") if TRAINED else "",
        resamples=STUDY["comparison"]["resamples"],
    shell:
        "offramp points {input.records} {input.policies} {params.weights} --resamples {params.resamples}"
        " --out {output} 2>&1 | tee {log}"


rule summary:
    input:
        tables=[rules.compare.output.speedup, rules.compare.output.control],
        code=sources("reports.summary"),
    output:
        f"{REPORT}/metrics.json",
    log:
        f"{LOGS}/summary.log",
    shell:
        "offramp summary {input.tables} --out {output} 2>&1 | tee {log}"


# The settings of the study, stored with its results. The input makes Snakemake write the file again when the results
# change; without an input, a file from the git checkout would count as up to date.
rule settings:
    input:
        rules.curves.input,
    output:
        f"{REPORT}/parameters.json",
    log:
        f"{LOGS}/settings.log",
    params:
        study=json.dumps(without(STUDY, "resources"), indent=2, ensure_ascii=False),
    shell:
        "printf '%s\n' {params.study:q} 2> {log} > {output}.partial && mv {output}.partial {output}"


# Machine and software versions. They are collected after all models are trained, or their outputs are read, on the
# machine that runs this rule.
rule environment:
    input:
        of_runs(rules.train.output.weights, TRAINED),
        [of_runs(path, [model for model in STUDY["models"] if model not in TRAINED]) for path in rules.record.output],
    output:
        f"{REPORT}/environment.json",
    log:
        f"{LOGS}/environment.log",
    shell:
        "offramp environment 2> {log} > {output}.partial && mv {output}.partial {output}"


rule report:
    input:
        shown=stems(f"{REPORT}/figures", SHOWN["figure"], ["png"]) + stems(f"{REPORT}/tables", SHOWN["table"], ["csv"]),
        linked=stems(f"{REPORT}/figures", SHOWN["figure"], ["pdf"])
        + stems(f"{REPORT}/tables", SHOWN["table"], ["md", "tex"]),
        points=rules.points.output,
        parameters=rules.settings.output,
        environment=rules.environment.output,
        template=expand("src/offramp/reports/page.{kind}", kind=["html", "css", "js"]),
        code=sources("reports.page", *(entry.module for its in SHOWN.values() for entry in its.values())),
    output:
        f"{REPORT}/index.html",
    log:
        f"{LOGS}/report.log",
    params:
        title=f"Offramp: the study {config['study']}",
        command=f"make reproduce STUDY={config['study']}",
    shell:
        "offramp report {input.shown} {input.points} --title {params.title:q} --parameters {input.parameters}"
        " --environment {input.environment} --command {params.command:q} --out {output} 2>&1 | tee {log}"


rule pages:
    input:
        rules.report.output,
        rules.report.input.shown,
        rules.report.input.linked,
        rules.points.output,
        rules.summary.output,
        rules.settings.output,
        rules.environment.output,
