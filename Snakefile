# The pipeline of Offramp. `snakemake --cores 2` runs the study that params.yaml names; `--config study=NAME` selects
# another one. Each step of the pipeline has a rule file in workflow/rules and runs commands of `offramp`.
from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


# Used only with `snakemake --sdm apptainer`; workflow/offramp.def is its recipe. Otherwise, rules run in the current
# environment.
container: "offramp.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/record.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


# All artifacts are listed, not only the report. If a failed job has deleted one of them, it is created again.
rule all:
    default_target: True
    input:
        rules.splits.input,
        rules.models.input,
        rules.records.input,
        rules.policies.input,
        rules.curves.input,
        rules.pages.input,
