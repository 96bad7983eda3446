# Curation: any pictures become packs of patches to train on. A shard of the list is a job: scores of every picture.
# Choosing reads scores only, so that other thresholds cost minutes; parts of what is chosen are packed, a job each.
from airpipe.settings.curation import numbered


include: "curation_common.smk"


wildcard_constraints:
    curated="|".join(CURATED) or "(?!)",
    numbered="[0-9]{5}-of-[0-9]{5}",


ruleorder: curated_list > pairs
ruleorder: curated_list > pack


localrules:
    curate,
    curate_tars,


rule curation_listing:
    input:
        addresses=address_lists,
    output:
        listing="results/curation/{curated}/listing.tsv",
        offsets="results/curation/{curated}/listing.offsets",
        left_out="results/curation/{curated}/listing.left_out.csv",
        facts="results/curation/{curated}/listing.json",
    log:
        "results/logs/curation/{curated}/listing.log",
    benchmark:
        "results/benchmarks/curation/{curated}/listing.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
        sources=picture_sources,
    params:
        kinds=lambda wildcards: [f"{k}={kind}" for k, (kind, _) in PLAN.picture_sources(wildcards.curated).items()],
    message:
        "Curation {wildcards.curated}: list all pictures"
    shell:
        "python scripts/list_pictures.py {resources.sources} --output {output.listing} > {log} 2>&1"


rule curation_scores:
    input:
        listing="results/curation/{curated}/listing.tsv",
        settings="results/frozen/curation/{curated}.scores.yaml",
        tests=lambda wildcards: fingerprints(PLAN.kept_out(wildcards.curated)),
    output:
        scores="results/curation/{curated}/scores/{numbered}.csv",
    log:
        "results/logs/curation/{curated}/scores/{numbered}.log",
    benchmark:
        "results/benchmarks/curation/{curated}/scores/{numbered}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=3000,
        runtime=1440,
        sources=opened_sources,
        root=lambda wildcards, input: roots(input),
    message:
        "Curation {wildcards.curated}: score shard {wildcards.numbered}"
    shell:
        "python scripts/score_pictures.py {input.listing} {resources.sources} --settings {input.settings}"
        " --shard {wildcards.numbered} --test {input.tests} {resources.root} --output {output.scores} > {log} 2>&1"


rule curation_choice:
    input:
        scores=shard_files,
        settings="results/frozen/curation/{curated}.choose.yaml",
    output:
        chosen="results/curation/{curated}/chosen.csv",
        removed="results/curation/{curated}/removed.csv",
        facts="results/curation/{curated}/chosen.json",
    log:
        "results/logs/curation/{curated}/choice.log",
    benchmark:
        "results/benchmarks/curation/{curated}/choice.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=4000,
        runtime=480,
    params:
        folder=lambda wildcards, input: os.path.dirname(input.scores[0]),
        shards=lambda wildcards: PLAN.curation(wildcards.curated).shards,
        patch=lambda wildcards: PLAN.curation(wildcards.curated).scores.patch,
    message:
        "Curation {wildcards.curated}: choose by scores"
    shell:
        "python scripts/choose_pictures.py {params.folder} --shards {params.shards} --settings {input.settings}"
        " --patch {params.patch} --output {output.chosen} 2>&1 | tee {log}"


rule curation_pack:
    input:
        chosen="results/curation/{curated}/chosen.csv",
        facts="results/curation/{curated}/chosen.json",
    output:
        facts="results/curation/{curated}/parts/{numbered}.json",
        index="results/curation/{curated}/parts/{numbered}.csv",
    log:
        "results/logs/curation/{curated}/parts/{numbered}.log",
    benchmark:
        "results/benchmarks/curation/{curated}/parts/{numbered}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=3000,
        runtime=480,
        sources=opened_sources,
    message:
        "Curation {wildcards.curated}: pack patches {wildcards.numbered}"
    shell:
        "python scripts/pack_patches.py {input.chosen} {resources.sources} --list {wildcards.curated}.train"
        " --part {wildcards.numbered} --packed resources/packed --output {output.facts} > {log} 2>&1"


rule curation_tar:
    input:
        chosen="results/curation/{curated}/chosen.csv",
        facts="results/curation/{curated}/chosen.json",
    output:
        tar="results/curation/{curated}/tars/{numbered}.tar",
        index="results/curation/{curated}/tars/{numbered}.csv",
    log:
        "results/logs/curation/{curated}/tars/{numbered}.log",
    benchmark:
        "results/benchmarks/curation/{curated}/tars/{numbered}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=3000,
        runtime=480,
        sources=opened_sources,
    message:
        "Curation {wildcards.curated}: patches {wildcards.numbered} in a tar file"
    shell:
        "python scripts/tar_patches.py {input.chosen} {resources.sources} --part {wildcards.numbered}"
        " --output {output.tar} > {log} 2>&1"


rule curated_list:
    input:
        parts=part_files,
    output:
        pairs="results/pairs/{curated}.train.csv",
        facts="results/pairs/{curated}.train.json",
        packs="results/packs/{curated}.train.json",
    log:
        "results/logs/curation/{curated}/list.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        folder=lambda wildcards, input: os.path.dirname(input.parts[0]),
        parts=lambda wildcards: PLAN.curation(wildcards.curated).parts,
    message:
        "Curation {wildcards.curated}: pair list of all patches"
    shell:
        "python scripts/join_patches.py {params.folder} --parts {params.parts} --packed resources/packed"
        " --output {output.pairs} --packs {output.packs} > {log} 2>&1"


rule curation_report:
    input:
        facts="results/curation/{curated}/chosen.json",
    output:
        report="results/curation/{curated}/report.html",
    log:
        "results/logs/curation/{curated}/report.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=3000,
        runtime=60,
        sources=opened_sources,
    message:
        "Curation {wildcards.curated}: report with sample pictures"
    shell:
        "python scripts/report_curation.py {input.facts} {resources.sources} --name {wildcards.curated}"
        " --output {output.report} > {log} 2>&1"


rule curate:
    input:
        expand("results/curation/{name}/report.html", name=CURATED),
        expand("results/pairs/{name}.train.csv", name=CURATED),


rule curate_tars:
    input:
        [file for name in CURATED for file in tar_files(name)],
