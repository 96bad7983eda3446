# A data set is fetched (or already there, or made here), checked file by file, split by split, into manifests;
# pair lists, packs and the leakage report are made from manifests.
include: "datasets_common.smk"


localrules:
    fetch_dataset,
    check,
    data,


rule fetch_dataset:
    input:
        entry=ancient("results/frozen/sources/{dataset}.yaml"),
    output:
        facts="results/fetched/{dataset}.json",
    log:
        "results/logs/fetch/{dataset}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=1440,
        command=fetch_command,
    message:
        "Data set {wildcards.dataset}: fetch, unless its folder is there"
    shell:
        "({resources.command}) 2>&1 | tee {log}"


rule make_dataset:
    input:
        made="results/frozen/made/{dataset}.yaml",
        source=made_from,
    output:
        facts="results/generated/{dataset}.json",
        images=directory("results/generated/{dataset}"),
    log:
        "results/logs/generated/{dataset}.log",
    benchmark:
        "results/benchmarks/generated/{dataset}.tsv"
    priority: FIRST
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=1000,
        runtime=120,
        source=source_argument,
    message:
        "Data set {wildcards.dataset}: make its images"
    shell:
        "python scripts/make_dataset.py {wildcards.dataset} --made {input.made} {resources.source}"
        " --output {output.images} > {log} 2>&1"


rule manifest:
    input:
        fetched=fetched,
        depends_on="results/frozen/pairs/{dataset}.{split}.yaml",
        entry=ancient("results/frozen/splits/{dataset}.{split}.yaml"),  # says what to expect, too: `check` tells of it
    output:
        manifest="results/manifests/{dataset}.{split}.csv",
        facts="results/manifests/{dataset}.{split}.json",
    log:
        "results/logs/manifests/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/manifests/{dataset}.{split}.tsv"
    priority: FIRST
    conda:
        "../../envs/train.yaml"
    threads: data_threads
    resources:
        mem_mb=manifest_memory,
        runtime=240,
        places=lambda wildcards: places(list_name(wildcards)),
    params:
        names=list_sha256,
    message:
        "Data set {wildcards.dataset}: check every file of {wildcards.split}"
    shell:
        "python scripts/check_dataset.py {wildcards.dataset}.{wildcards.split} --entry {input.entry}"
        " {resources.places} --output {output.manifest} --threads {threads} > {log} 2>&1"


rule check:
    input:
        entries=lambda wildcards: [f"results/frozen/splits/{name}.yaml" for name in splits_in_use()],
    log:
        "results/logs/check.log",
    conda:
        "../../envs/train.yaml"
    threads: 2
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        commands=lambda wildcards, threads: "; ".join(check_commands(threads)),
    message:
        "Read every file of the data sets in use again; the manifests of those that changed are renewed"
    shell:
        "(failed=0; {params.commands}; exit $failed) 2>&1 | tee {log}"


rule pairs:
    input:
        manifest="results/manifests/{dataset}.{split}.csv",
        facts=ancient("results/manifests/{dataset}.{split}.json"),
        entry="results/frozen/pairs/{dataset}.{split}.yaml",
    output:
        pairs="results/pairs/{dataset}.{split}.csv",
        facts="results/pairs/{dataset}.{split}.json",
    log:
        "results/logs/pairs/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/pairs/{dataset}.{split}.tsv"
    wildcard_constraints:
        split="[a-z0-9_]+(?<!_noleak)",
    priority: FIRST
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=list_memory("pairs"),
        runtime=60,
        names=lambda wildcards: name_list(list_name(wildcards)),
    params:
        names=list_sha256,
    message:
        "Data set {wildcards.dataset}: pair list of {wildcards.split}"
    shell:
        "python scripts/make_pairs.py {wildcards.dataset}.{wildcards.split} --entry {input.entry}"
        " --manifest {input.manifest} {resources.names} --output {output.pairs} > {log} 2>&1"


rule fingerprint:
    input:
        pairs="results/pairs/{dataset}.{split}.csv",
    output:
        prints="results/fingerprints/{dataset}.{split}.csv",
    log:
        "results/logs/fingerprints/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/fingerprints/{dataset}.{split}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: data_threads
    resources:
        mem_mb=list_memory("fingerprint"),
        runtime=240,
        root=lambda wildcards, input: roots(input),
    message:
        "Data set {wildcards.dataset}: fingerprints of the clean images of {wildcards.split}"
    shell:
        "python scripts/fingerprint.py {input.pairs} {resources.root} --output {output.prints}"
        " --threads {threads} > {log} 2>&1"


rule leakage:
    input:
        train=lambda wildcards: fingerprints(PLAN.compared_lists()[0]),
        test=lambda wildcards: fingerprints(PLAN.compared_lists()[1]),
    output:
        leaks="results/data/leakage.csv",
        facts="results/data/leakage.json",
    log:
        "results/logs/leakage.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=list_memory("leakage"),
        runtime=120,
        root=lambda wildcards, input: roots(input),
    message:
        "Search the training images for images of the tests"
    shell:
        "python scripts/find_leaks.py --train {input.train} --test {input.test} {resources.root}"
        " --output {output.leaks} 2>&1 | tee {log}"


rule remove_leaks:
    input:
        pairs="results/pairs/{dataset}.{split}.csv",
        facts="results/pairs/{dataset}.{split}.json",
        train="results/fingerprints/{dataset}.{split}.csv",
        test=lambda wildcards: fingerprints(PLAN.leak_tests()),
    output:
        pairs="results/pairs/{dataset}.{split}_noleak.csv",
        facts="results/pairs/{dataset}.{split}_noleak.json",
        leaks="results/leakage/{dataset}.{split}.csv",
    log:
        "results/logs/pairs/{dataset}.{split}_noleak.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=list_memory("remove_leaks"),
        runtime=120,
        root=lambda wildcards, input: roots(input),
    message:
        "Data set {wildcards.dataset}: {wildcards.split} without images of the tests"
    shell:
        "(python scripts/find_leaks.py --train {input.train} --test {input.test} {resources.root}"
        " --output {output.leaks} && python scripts/remove_leaks.py {input.pairs} {output.leaks}"
        " --output {output.pairs}) > {log} 2>&1"


rule pack:
    input:
        pairs="results/pairs/{dataset}.{split}.csv",
        manifest=lambda wildcards: f"results/manifests/{wildcards.dataset}.{wildcards.split.removesuffix('_noleak')}.csv",
    output:
        facts="results/packs/{dataset}.{split}.json",
    log:
        "results/logs/packs/{dataset}.{split}.log",
    benchmark:
        "results/benchmarks/packs/{dataset}.{split}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: data_threads
    resources:
        mem_mb=list_memory("pack"),
        runtime=480,
        root=lambda wildcards: shlex.quote(PROJECT.root(wildcards.dataset)),
    params:
        off=lambda wildcards: "" if PLAN.packed(list_name(wildcards)) else "--off",
    message:
        "Data set {wildcards.dataset}: decode {wildcards.split} into one file, where asked for"
    shell:
        "python scripts/pack_dataset.py {wildcards.dataset}.{wildcards.split} --pairs {input.pairs}"
        " --manifest {input.manifest} --root {resources.root} --packed resources/packed --output {output.facts}"
        " --threads {threads} {params.off} > {log} 2>&1"


rule data:
    input:
        lambda wildcards: pair_lists(PLAN.checked_lists()),
        lambda wildcards: expand("results/generated/{dataset}", dataset=PLAN.made_sets()),
        lambda wildcards: packs(PLAN.training_lists()),
        "results/data/leakage.csv",
