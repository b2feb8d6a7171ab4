# Input: none (datasets that are not part of a package are downloaded). Output: the split of each sample into training,
# validation and test. Of images with captions, also those that figures show.
PICTURES = {"pictures": f"{ROOT}/data/pictures.parquet"} if OF_CAPTIONS else {}


rule data:
    input:
        code=sorted({*dataset_code(STUDY["dataset"]), *sources("datasets.splits")}),
    output:
        **PICTURES,
        splits=f"{ROOT}/data/splits.csv",
    log:
        f"{LOGS}/data.log",
    benchmark:
        f"{BENCHMARKS}/data.tsv"
    resources:
        **needs("data", mem_mb=2000, runtime=60),  # includes the download of the dataset in the first run
    params:
        dataset=dataset_spec(STUDY["dataset"]),
        splits=flags(**STUDY["splits"], **PICTURES),
    shell:
        "offramp data {params.dataset} {params.splits} --out {output.splits} 2>&1 | tee {log}"


rule splits:
    input:
        rules.data.output,
