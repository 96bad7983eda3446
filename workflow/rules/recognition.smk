# Does restoring help recognisers that were trained on clean images? Each enhancer of `recognition.models`, and none,
# goes through all recognition tests once for every seed.


localrules:
    recognition_tables,


rule recognise:
    input:
        model=model_file,
        job="results/frozen/recognition/seed{seed}.yaml",
        recognisers=lambda wildcards: [weights(model) for model in PLAN.recognisers(int(wildcards.seed)).values()],
        pairs=lambda wildcards: pair_lists(PLAN.recognition_lists(int(wildcards.seed))),
    output:
        facts="results/recognition/seed{seed}/{model}.json",
        pictures="results/recognition/seed{seed}/{model}.npz",
    log:
        "results/logs/recognition/seed{seed}/{model}.log",
    benchmark:
        "results/benchmarks/recognition/seed{seed}/{model}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: PROJECT.compute_for("evaluate").threads
    resources:
        **evaluation_resources(always=True),
    params:
        recognisers=lambda wildcards: " ".join(
            f"--recogniser {name}={weights(model)}" for name, model in PLAN.recognisers(int(wildcards.seed)).items()
        ),
    message:
        "Recognition after {wildcards.model}, seed {wildcards.seed}"
    shell:
        "python scripts/recognise.py {wildcards.model} --seed {wildcards.seed} --model {input.model}"
        " {params.recognisers} --job {input.job} --pairs {input.pairs} --output {output.facts}"
        " --threads {threads} {resources.machine} > {log} 2>&1"


rule recognition_tables:
    input:
        results=recognition_results(PROJECT.seeds),
        cards=recognition_cards(PROJECT.seeds),
        detections=[
            file
            for files in PLAN.detection_files().values()
            for file in [files["annotations"], *files["detections"].values()]
        ],
    output:
        recognition=report(
            "results/tables/recognition.csv",
            caption="../report/recognition.rst",
            category="Tables",
            labels={"table": "recognition"},
        ),
        recognition_md="results/tables/recognition.md",
        recognition_tex="results/tables/recognition.tex",
        recognition_json="results/tables/recognition.json",
        restoration=report(
            "results/tables/restoration.csv",
            caption="../report/restoration.rst",
            category="Tables",
            labels={"table": "restoration"},
        ),
        restoration_md="results/tables/restoration.md",
        restoration_tex="results/tables/restoration.tex",
        restoration_json="results/tables/restoration.json",
    log:
        "results/logs/recognition_tables.log",
    benchmark:
        "results/benchmarks/recognition_tables.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
        detections=lambda wildcards: json.dumps(PLAN.detection_files()),
    params:
        scale=PROJECT.scale,
        tests=list(RECOGNITION.tests),
        recognisers=list(RECOGNITION.in_order()),
        abouts=PLAN.abouts(),
        detections=PLAN.detection_texts(),
    message:
        "Tables of the recognition tests"
    script:
        "../../scripts/make_tables.py"


rule recognition_figures:
    input:
        results=recognition_results(PROJECT.seeds),
        pictures=recognition_results(PROJECT.seeds, "npz"),
        table="results/tables/recognition.csv",
    output:
        top1=report(
            "results/figures/recognition/top1.png",
            caption="../report/top1.rst",
            category="Figures",
            labels={"table": "recognition", "figure": "top-1"},
        ),
        pictures=report(
            "results/figures/recognition/pictures.png",
            caption="../report/recognised.rst",
            category="Figures",
            labels={"table": "recognition", "figure": "pictures"},
        ),
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
        branches=lambda wildcards: PLAN.branches(),
    message:
        "Figures of the recognition tests"
    script:
        "../../scripts/make_figures.py"
