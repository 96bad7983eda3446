# From scores to what people read: tables, metrics for DVC, figures, and one page over all of it.


localrules:
    tables,
    efficiency,
    metrics,
    all_tables,


rule tables:
    input:
        scores=lambda wildcards: score_files(wildcards.table),
        cards=lambda wildcards: cards(PLAN.table_models(wildcards.table)),
        published=collect(
            "resources/published/{name}",
            name=sorted(glob_wildcards(r"resources/published/{name,\w+\.(csv|yaml)}").name),
        ),
    output:
        csv="results/tables/{table}.csv",
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
        gains="results/tables/{table}_gains.csv",
        gains_md="results/tables/{table}_gains.md",
    log:
        "results/logs/tables/{table}.log",
    benchmark:
        "results/benchmarks/tables/{table}.tsv"
    wildcard_constraints:
        table="|".join(PROJECT.tables),
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        scale=PROJECT.scale,
        equal_budgets=lambda wildcards: PROJECT.tables[wildcards.table].equal_budgets,
    message:
        "Table {wildcards.table}"
    script:
        "../../scripts/make_tables.py"


rule efficiency:
    input:
        complexity=collect("results/complexity/{model}.json", model=PLAN.shown_models()),
        cards=cards(PLAN.shown_models()),
        published="resources/published/efficiency.csv",
    output:
        csv="results/tables/efficiency.csv",
        md="results/tables/efficiency.md",
        tex="results/tables/efficiency.tex",
    log:
        "results/logs/efficiency.log",
    benchmark:
        "results/benchmarks/efficiency.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "Table of parameters, operations and latency"
    script:
        "../../scripts/make_tables.py"


rule metrics:
    input:
        tables=collect("results/tables/{table}.csv", table=PROJECT.tables),
    output:
        metrics="results/metrics.json",
    log:
        "results/logs/metrics.log",
    benchmark:
        "results/benchmarks/metrics.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "Metrics for DVC"
    script:
        "../../scripts/make_tables.py"


rule all_tables:
    input:
        expand("results/tables/{table}.csv", table=PROJECT.tables),
        "results/tables/efficiency.csv",
        "results/metrics.json",
        feature_outputs(),
        recognition_outputs(),


rule figures:
    input:
        table="results/tables/{table}.csv",
        scores=lambda wildcards: score_files(wildcards.table),
        curves=lambda wildcards: curves(PLAN.table_models(wildcards.table)),
        pictures=lambda wildcards: restored_folders(wildcards.table),
    output:
        bars="results/figures/{table}/bars.png",
        curves="results/figures/{table}/curves.png",
        qualitative="results/figures/{table}/qualitative.png",
    log:
        "results/logs/figures/{table}.log",
    benchmark:
        "results/benchmarks/figures/{table}.tsv"
    wildcard_constraints:
        table="|".join(PROJECT.tables),
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        report=PROJECT.report.model_dump(mode="json", include={"zoom", "images_per_test", "protocol"}),
    message:
        "Figures of table {wildcards.table}"
    script:
        "../../scripts/make_figures.py"


rule page:
    input:
        tables=collect("results/tables/{table}.csv", table=PROJECT.tables),
        gains=collect("results/tables/{table}_gains.csv", table=PROJECT.tables),
        figures=collect(
            "results/figures/{table}/{kind}.png",
            table=PROJECT.tables,
            kind=["bars", "curves", "qualitative"],
        ),
        efficiency="results/tables/efficiency.csv",
        cards=cards([*PLAN.shown_models(), *PLAN.recognition_models()]),
        scores=score_files(*PROJECT.tables),
        pictures=restored_folders(*PROJECT.tables),
        lists=lambda wildcards: [f"results/pairs/{name}.json" for name in PLAN.folder_lists()],
        checks=lambda wildcards: [
            f"results/manifests/{name.removesuffix('_noleak')}.json" for name in PLAN.folder_lists()
        ],
        leakage=lambda wildcards: ["results/data/leakage.json"] if PLAN.folder_lists() else [],
        features=feature_outputs(),
        recognition=recognition_outputs(),
    output:
        page="results/report/index.html",
    log:
        "results/logs/page.log",
    benchmark:
        "results/benchmarks/page.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        report=PROJECT.report.model_dump(mode="json"),
        scale=PROJECT.scale,
    message:
        "Report page"
    script:
        "../../scripts/make_report.py"
