# Offramp's pipeline. `snakemake --cores 2` runs the study that params.yaml names, `--config study=NAME` another.
# A step is a rule file here, a module in src/offramp and a verb of the command `offramp`, all by the same name.
from snakemake.utils import min_version

min_version("9.0")


configfile: "params.yaml"


# Only for `snakemake --sdm apptainer`; workflow/offramp.def builds it. Else rules run in the environment that is there.
container: "offramp.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/record.smk"
include: "workflow/rules/calibrate.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


# Every kept artifact is named, not only the report: what a failed job took away is then missed and made again.
rule all:
    default_target: True
    input:
        rules.splits.input,
        rules.models.input,
        rules.records.input,
        rules.policies.input,
        rules.curves.input,
        rules.pages.input,
