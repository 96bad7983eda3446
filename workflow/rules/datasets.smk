# Every file of a data set is checked once, into a manifest; pair lists are made from manifests.


localrules:
    manifest,
    pairs,
    data,


rule manifest:
    output:
        manifest="results/manifests/{dataset}.csv",
    log:
        "results/logs/manifests/{dataset}.log",
    benchmark:
        "results/benchmarks/manifests/{dataset}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
        root=lambda wildcards: shlex.quote(PROJECT.root(wildcards.dataset)),
    params:
        entry=lambda wildcards: dataset_json(wildcards.dataset),
    message:
        "Data set {wildcards.dataset}: check every file"
    shell:
        "python scripts/make_manifest.py {wildcards.dataset} --entry {params.entry:q}"
        " --root {resources.root} --output {output.manifest} > {log} 2>&1"


rule pairs:
    input:
        manifest="results/manifests/{dataset}.csv",
    output:
        pairs="results/pairs/{dataset}.{split}.csv",
        facts="results/pairs/{dataset}.{split}.json",
    log:
        "results/logs/pairs/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/pairs/{dataset}.{split}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        entry=lambda wildcards: dataset_json(wildcards.dataset),
    message:
        "Data set {wildcards.dataset}: pair list of {wildcards.split}"
    shell:
        "python scripts/make_pairs.py {wildcards.dataset}.{wildcards.split} --entry {params.entry:q}"
        " --manifest {input.manifest} --output {output.pairs} > {log} 2>&1"


rule data:
    input:
        sorted({f"results/pairs/{name}.csv" for name in used_pairs()}),
