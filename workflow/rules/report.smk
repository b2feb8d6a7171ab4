# In: curves, tables, records and diagrams of all runs. Out: figures, tables and one page that shows them all.
FIGURES = f"{REPORT}/figures"
TABLES = f"{REPORT}/tables"


CURVES = of_runs(rules.evaluate.output.curve) + of_runs(rules.evaluate.output.exits)
LAYERS_OF = STUDY["report"]["oracle"]
DIAGRAMS_OF = STUDY["report"]["reliability"]
PAIRS = STUDY["comparison"]["pairs"]
CLAIMING = [label for label, options in STUDY["policies"].items() if options["policy"] in ("pcee", "pcee-ws")]
BEEM = [label for label, options in STUDY["policies"].items() if options["policy"] in ("beem-c", "beem-a")]
DUELS = STUDY["duels"]
SEARCHED = bool(STUDY["search"])
PICTURES = [
    *(["error-cost"] if PAIRS else []),
    "control",
    "speedup",
    "exit-histogram",
    "agreement",
    f"reliability-{DIAGRAMS_OF}",
    f"overconfidence-{LAYERS_OF}",
    f"oracle-heatmap-{LAYERS_OF}",
    *(["sensitivity"] if VARIANTS else []),
    *(["cascades-front", "cascade-relation", "cascade-reduction", "cascade-variants"] if SEARCHED else []),
]
LISTS = [
    *(["claims"] if CLAIMING else []),
    *(["beem-claims"] if BEEM else []),
    *(["cascade-claims"] if SEARCHED else []),
    *(["duels"] if DUELS else []),
    "speedup",
    "per-exit",
    *(["equal-cost", "equal-accuracy"] if PAIRS else []),
    "control",
    "calibration",
    "targets",
    "exits",
    *(["sensitivity"] if VARIANTS else []),
    *(["reductions", "cascade-variants", "replacements", "models", "seconds"] if SEARCHED else []),
]
SHOWING = code("_io/tables", "_io/writing", "reports/labels", "reports/loading")
FIGURE_CODE = SHOWING + code("reports/figures/__init__", "reports/figures/style")
TABLE_CODE = SHOWING + code("reports/tables/__init__", "reports/tables/writing")


rule figure_error_cost:
    input:
        curves=CURVES,
        code=FIGURE_CODE + code("reports/figures/error_cost"),
    output:
        stems(FIGURES, "error-cost", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/error-cost.log",
    params:
        pairs=" ".join(f"--pair {small} {large}" for small, large in PAIRS),
        stem=stem,
    shell:
        "offramp figure error-cost {input.curves} {params.pairs} --out {params.stem} 2>&1 | tee {log}"


rule figure_speedup:
    input:
        curves=CURVES,
        code=FIGURE_CODE + code("reports/figures/speedup", "reports/figures/error_cost"),
    output:
        stems(FIGURES, "speedup", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/speedup.log",
    params:
        stem=stem,
    shell:
        "offramp figure speedup {input.curves} --out {params.stem} 2>&1 | tee {log}"


rule figure_exit_histogram:
    input:
        speedup=rules.compare.output.speedup,
        code=FIGURE_CODE + code("reports/figures/exit_histogram"),
    output:
        stems(FIGURES, "exit-histogram", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/exit-histogram.log",
    params:
        stem=stem,
    shell:
        "offramp figure exit-histogram {input.speedup} --out {params.stem} 2>&1 | tee {log}"


rule figure_agreement:
    input:
        exits=of_runs(rules.evaluate.output.exits),
        code=FIGURE_CODE + code("reports/figures/agreement"),
    output:
        stems(FIGURES, "agreement", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/agreement.log",
    params:
        stem=stem,
    shell:
        "offramp figure agreement {input.exits} --out {params.stem} 2>&1 | tee {log}"


rule figure_control:
    input:
        curves=CURVES,
        code=FIGURE_CODE + code("reports/figures/control"),
    output:
        stems(FIGURES, "control", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/control.log",
    params:
        stem=stem,
    shell:
        "offramp figure control {input.curves} --out {params.stem} 2>&1 | tee {log}"


rule figure_reliability:
    input:
        diagrams=of_runs(rules.calibrate.output.reliability, [DIAGRAMS_OF]),
        code=FIGURE_CODE + code("reports/figures/reliability", "calibration"),
    output:
        stems(FIGURES, f"reliability-{DIAGRAMS_OF}", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/reliability.log",
    params:
        exits=flags(exit=STUDY["report"]["reliability_exits"]),
        stem=stem,
    shell:
        "offramp figure reliability {input.diagrams} {params.exits} --out {params.stem} 2>&1 | tee {log}"


rule figure_layers:
    input:
        record=expand(RECORD, split="test", system=LAYERS_OF, seed=STUDY["seeds"][0]),
        code=FIGURE_CODE + POLICIES + code("reports/figures/overconfidence", "reports/figures/oracle_heatmap"),
    output:
        stems(FIGURES, f"{{figure}}-{LAYERS_OF}", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/{{figure}}.log",
    wildcard_constraints:
        figure="overconfidence|oracle-heatmap",
    params:
        stem=stem,
    shell:
        "offramp figure {wildcards.figure} {input.record} --out {params.stem} 2>&1 | tee {log}"


rule figure_sensitivity:
    input:
        measured=rules.sensitivity.output,
        code=FIGURE_CODE + code("reports/figures/sensitivity"),
    output:
        stems(FIGURES, "sensitivity", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/sensitivity.log",
    params:
        stem=stem,
    shell:
        "offramp figure sensitivity {input.measured} --out {params.stem} 2>&1 | tee {log}"


rule table_claims:
    input:
        tables=[rules.compare.output.pairs, rules.compare.output.control],
        code=TABLE_CODE + code("reports/tables/claims"),
    output:
        stems(TABLES, "claims", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/claims.log",
    params:
        policies=flags(policy=CLAIMING),
        stem=stem,
    shell:
        "offramp table claims {input.tables} {params.policies} --out {params.stem} 2>&1 | tee {log}"


rule table_beem_claims:
    input:
        tables=[rules.compare.output.speedup, rules.compare.output.duels],
        code=TABLE_CODE + code("reports/tables/beem_claims", "reports/tables/claims", "reports/tables/duels"),
    output:
        stems(TABLES, "beem-claims", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/beem-claims.log",
    params:
        policies=flags(policy=BEEM),
        stem=stem,
    shell:
        "offramp table beem-claims {input.tables} {params.policies} --out {params.stem} 2>&1 | tee {log}"


rule table_duels:
    input:
        duels=rules.compare.output.duels,
        code=TABLE_CODE + code("reports/tables/duels"),
    output:
        stems(TABLES, "duels", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/duels.log",
    params:
        stem=stem,
    shell:
        "offramp table duels {input.duels} --out {params.stem} 2>&1 | tee {log}"


rule table_speedup:
    input:
        speedup=rules.compare.output.speedup,
        code=TABLE_CODE + code("reports/tables/speedup"),
    output:
        stems(TABLES, "speedup", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/speedup.log",
    params:
        stem=stem,
    shell:
        "offramp table speedup {input.speedup} --out {params.stem} 2>&1 | tee {log}"


rule table_per_exit:
    input:
        speedup=rules.compare.output.speedup,
        code=TABLE_CODE + code("reports/tables/per_exit"),
    output:
        stems(TABLES, "per-exit", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/per-exit.log",
    params:
        stem=stem,
    shell:
        "offramp table per-exit {input.speedup} --out {params.stem} 2>&1 | tee {log}"


rule table_pairs:
    input:
        pairs=rules.compare.output.pairs,
        code=TABLE_CODE + code("reports/tables/pairs"),
    output:
        stems(TABLES, "{table}", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/{{table}}.log",
    wildcard_constraints:
        table="equal-cost|equal-accuracy",
    params:
        stem=stem,
    shell:
        "offramp table {wildcards.table} {input.pairs} --out {params.stem} 2>&1 | tee {log}"


rule table_control:
    input:
        control=rules.compare.output.control,
        code=TABLE_CODE + code("reports/tables/control"),
    output:
        stems(TABLES, "control", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/control.log",
    params:
        stem=stem,
    shell:
        "offramp table control {input.control} --out {params.stem} 2>&1 | tee {log}"


rule table_calibration:
    input:
        tables=[rules.compare.output.control] + of_runs(rules.evaluate.output.exits),
        code=TABLE_CODE + code("reports/tables/calibration"),
    output:
        stems(TABLES, "calibration", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/calibration.log",
    params:
        stem=stem,
    shell:
        "offramp table calibration {input.tables} --out {params.stem} 2>&1 | tee {log}"


rule table_sensitivity:
    input:
        measured=rules.sensitivity.output,
        code=TABLE_CODE + code("reports/tables/sensitivity"),
    output:
        stems(TABLES, "sensitivity", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/sensitivity.log",
    params:
        stem=stem,
    shell:
        "offramp table sensitivity {input.measured} --out {params.stem} 2>&1 | tee {log}"


# The two tables of what is open in the paper, and the figure
rule choices:
    input:
        rules.table_calibration.output,
        rules.table_sensitivity.output if VARIANTS else [],
        rules.figure_sensitivity.output if VARIANTS else [],


rule table_targets:
    input:
        targets=rules.compare.output.targets,
        code=TABLE_CODE + code("reports/tables/targets"),
    output:
        stems(TABLES, "targets", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/targets.log",
    params:
        stem=stem,
    shell:
        "offramp table targets {input.targets} --out {params.stem} 2>&1 | tee {log}"


rule table_exits:
    input:
        exits=of_runs(rules.evaluate.output.exits),
        code=TABLE_CODE + code("reports/tables/exits", "records/metrics"),
    output:
        stems(TABLES, "exits", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/exits.log",
    params:
        stem=stem,
    shell:
        "offramp table exits {input.exits} --out {params.stem} 2>&1 | tee {log}"


rule figure_cascades_front:
    input:
        tables=[rules.search.output.models, rules.search.output.choices],
        code=FIGURE_CODE + code("reports/figures/cascades_front", "cascades/fronts"),
    output:
        stems(FIGURES, "cascades-front", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/cascades-front.log",
    params:
        stem=stem,
    shell:
        "offramp figure cascades-front {input.tables} --out {params.stem} 2>&1 | tee {log}"


rule figure_cascade_relation:
    input:
        relations=rules.search.output.relations,
        code=FIGURE_CODE + code("reports/figures/cascade_relation"),
    output:
        stems(FIGURES, "cascade-relation", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/cascade-relation.log",
    params:
        stem=stem,
    shell:
        "offramp figure cascade-relation {input.relations} --out {params.stem} 2>&1 | tee {log}"


rule figure_cascade_reduction:
    input:
        reductions=rules.search.output.reductions,
        code=FIGURE_CODE + code("reports/figures/cascade_reduction"),
    output:
        stems(FIGURES, "cascade-reduction", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/cascade-reduction.log",
    params:
        stem=stem,
    shell:
        "offramp figure cascade-reduction {input.reductions} --out {params.stem} 2>&1 | tee {log}"


rule figure_cascade_variants:
    input:
        reductions=rules.search.output.reductions,
        code=FIGURE_CODE + code("reports/figures/cascade_variants"),
    output:
        stems(FIGURES, "cascade-variants", ["pdf", "png"]),
    log:
        f"{LOGS}/figures/cascade-variants.log",
    params:
        stem=stem,
    shell:
        "offramp figure cascade-variants {input.reductions} --out {params.stem} 2>&1 | tee {log}"


rule table_cascade_claims:
    input:
        tables=[rules.search.output.reductions, rules.search.output.measures],
        code=TABLE_CODE + code("reports/tables/cascade_claims", "reports/tables/claims"),
    output:
        stems(TABLES, "cascade-claims", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/cascade-claims.log",
    params:
        stem=stem,
    shell:
        "offramp table cascade-claims {input.tables} --out {params.stem} 2>&1 | tee {log}"


rule table_reductions:
    input:
        reductions=rules.search.output.reductions,
        code=TABLE_CODE + code("reports/tables/reductions"),
    output:
        stems(TABLES, "reductions", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/reductions.log",
    params:
        stem=stem,
    shell:
        "offramp table reductions {input.reductions} --out {params.stem} 2>&1 | tee {log}"


rule table_cascade_variants:
    input:
        reductions=rules.search.output.reductions,
        code=TABLE_CODE + code("reports/tables/reductions"),
    output:
        stems(TABLES, "cascade-variants", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/cascade-variants.log",
    params:
        stem=stem,
    shell:
        "offramp table cascade-variants {input.reductions} --out {params.stem} 2>&1 | tee {log}"


rule table_replacements:
    input:
        replacements=rules.search.output.replacements,
        code=TABLE_CODE + code("reports/tables/replacements"),
    output:
        stems(TABLES, "replacements", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/replacements.log",
    params:
        stem=stem,
    shell:
        "offramp table replacements {input.replacements} --out {params.stem} 2>&1 | tee {log}"


rule table_models:
    input:
        models=rules.search.output.models,
        code=TABLE_CODE + code("reports/tables/models"),
    output:
        stems(TABLES, "models", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/models.log",
    params:
        stem=stem,
    shell:
        "offramp table models {input.models} --out {params.stem} 2>&1 | tee {log}"


rule table_seconds:
    input:
        seconds=of_runs(rules.seconds.output[0], SINGLES),
        code=TABLE_CODE + code("reports/tables/seconds"),
    output:
        stems(TABLES, "seconds", ["csv", "md", "tex"]),
    log:
        f"{LOGS}/tables/seconds.log",
    params:
        stem=stem,
    shell:
        "offramp table seconds {input.seconds} --out {params.stem} 2>&1 | tee {log}"


rule summary:
    input:
        tables=[rules.compare.output.speedup, rules.compare.output.control],
        code=SHOWING + code("reports/summary"),
    output:
        f"{REPORT}/metrics.json",
    log:
        f"{LOGS}/summary.log",
    shell:
        "offramp summary {input.tables} --out {output} 2>&1 | tee {log}"


# What made the study, beside what it gave. (Its input ties it to the artifacts: alone, a file of a checkout would do.)
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


# Machine and versions, asked for once all models are trained: of the machine that runs this rule.
rule environment:
    input:
        of_runs(rules.train.output.weights, MODELS),
    output:
        f"{REPORT}/environment.json",
    log:
        f"{LOGS}/environment.log",
    shell:
        "offramp environment 2> {log} > {output}.partial && mv {output}.partial {output}"


rule report:
    input:
        shown=stems(FIGURES, PICTURES, ["png"]) + stems(TABLES, LISTS, ["csv"]),
        linked=stems(FIGURES, PICTURES, ["pdf"]) + stems(TABLES, LISTS, ["md", "tex"]),
        parameters=rules.settings.output,
        environment=rules.environment.output,
        code=FIGURE_CODE + TABLE_CODE + code("reports/page"),
    output:
        f"{REPORT}/index.html",
    log:
        f"{LOGS}/report.log",
    params:
        title=f"Offramp: the study {config['study']}",
        command=f"make reproduce STUDY={config['study']}",
    shell:
        "offramp report {input.shown} --title {params.title:q} --parameters {input.parameters}"
        " --environment {input.environment} --command {params.command:q} --out {output} 2>&1 | tee {log}"


rule pages:
    input:
        rules.report.output,
        rules.report.input.shown,
        rules.report.input.linked,
        rules.summary.output,
        rules.settings.output,
        rules.environment.output,


# Public models and what a cascade needs to beat them: of no study, and of files that are in git.
ZOO = expand("data/timm/{table}.csv", table=["timm_pareto_2022-09", "timm_pareto"])
ZOO_REPORT, ZOO_CODE = "reports/public_zoo", code("cascades/public_models", "cascades/fronts")


rule figure_public_zoo:
    input:
        zoo=ZOO,
        code=FIGURE_CODE + ZOO_CODE + code("reports/figures/public_zoo"),
    output:
        stems(ZOO_REPORT, "public-zoo", ["pdf", "png"]),
    log:
        "logs/public_zoo/figure.log",
    params:
        stem=stem,
    shell:
        "offramp figure public-zoo {input.zoo} --out {params.stem} 2>&1 | tee {log}"


rule table_public_zoo:
    input:
        zoo=ZOO,
        code=TABLE_CODE + ZOO_CODE + code("reports/tables/public_zoo"),
    output:
        stems(ZOO_REPORT, "public-zoo", ["csv", "md", "tex"]),
    log:
        "logs/public_zoo/table.log",
    params:
        stem=stem,
    shell:
        "offramp table public-zoo {input.zoo} --out {params.stem} 2>&1 | tee {log}"


rule public_zoo:
    input:
        rules.figure_public_zoo.output,
        rules.table_public_zoo.output,
