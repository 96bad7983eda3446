# Does restoring help recognisers that were trained on clean images? Each enhancer of `recognition.models`, and none,
# goes through all recognition tests once for every seed.


localrules:
    recognition_tables,
    recognition_seeds,
    vrdir_seeds,


rule recognise:
    input:
        model=model_file,
        recognisers=recogniser_files,
        pairs=lambda wildcards: collect("results/pairs/{pairs}.csv", pairs=recognition_lists(int(wildcards.seed))),
    output:
        facts="results/recognition/seed{seed}/{model}.json",
        pictures="results/recognition/seed{seed}/{model}.npz",
    log:
        "results/logs/recognition/seed{seed}/{model}.log",
    benchmark:
        "results/benchmarks/recognition/seed{seed}/{model}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: stage_threads("evaluate")
    resources:
        **evaluation_resources(always=True),
    params:
        job=lambda wildcards: canonical_json(PROJECT.recognition_job(int(wildcards.seed))),
        recognisers=recogniser_arguments,
    message:
        "Recognition after {wildcards.model}, seed {wildcards.seed}"
    shell:
        "python scripts/recognise.py {wildcards.model} --seed {wildcards.seed} --model {input.model}"
        " {params.recognisers} --job {params.job:q} --pairs {input.pairs} --output {output.facts}"
        " --threads {threads} {resources.machine} > {log} 2>&1"


rule recognition_tables:
    input:
        results=recognition_results(PROJECT.seeds),
        detections=detection_inputs(),
    output:
        recognition="results/tables/recognition.csv",
        recognition_md="results/tables/recognition.md",
        recognition_tex="results/tables/recognition.tex",
        restoration="results/tables/restoration.csv",
        restoration_md="results/tables/restoration.md",
        restoration_tex="results/tables/restoration.tex",
    log:
        "results/logs/recognition_tables.log",
    benchmark:
        "results/benchmarks/recognition_tables.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
        detections=lambda wildcards: json.dumps(detection_files()),
    params:
        scale=PROJECT.scale,
        tests=list(RECOGNITION.tests),
        recognisers=list(RECOGNITION.in_order()),
        abouts=recognition_abouts(),
        detections=detection_texts(),
    message:
        "Tables of the recognition tests"
    script:
        "../../scripts/make_tables.py"


use rule recognition_tables as recognition_seeds with:
    input:
        results=recognition_results(RECOGNITION.fresh_seeds, method="vrdir/"),  # others need no fresh data
        detections=[],
    output:
        recognition="results/tables/recognition_seeds.csv",
        recognition_md="results/tables/recognition_seeds.md",
        recognition_tex="results/tables/recognition_seeds.tex",
        restoration="results/tables/restoration_seeds.csv",
        restoration_md="results/tables/restoration_seeds.md",
        restoration_tex="results/tables/restoration_seeds.tex",
    log:
        "results/logs/recognition_seeds.log",
    benchmark:
        "results/benchmarks/recognition_seeds.tsv"
    message:
        "Tables of the recognition tests over fresh seeds"


rule recognition_figures:
    input:
        results=recognition_results(PROJECT.seeds),
        pictures=[path.replace(".json", ".npz") for path in recognition_results(PROJECT.seeds)],
        table="results/tables/recognition.csv",
    output:
        top1="results/figures/recognition/top1.png",
        pictures="results/figures/recognition/pictures.png",
    log:
        "results/logs/figures/recognition.log",
    benchmark:
        "results/benchmarks/figures/recognition.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        tests=list(RECOGNITION.tests),
        recognisers=list(RECOGNITION.in_order()),
        branches=lambda wildcards: recognition_branches(),
    message:
        "Figures of the recognition tests"
    script:
        "../../scripts/make_figures.py"


rule vrdir_seeds:
    input:
        fresh_tables,
