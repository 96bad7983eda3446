# From scores to what people read: tables, metrics for DVC, figures, and one page over all of it.


localrules:
    tables,
    efficiency,
    published,
    metrics,
    all_tables,


rule tables:
    input:
        scores=lambda wildcards: evaluated(wildcards.table),
        cards=lambda wildcards: cards(PLAN.table_models(wildcards.table)),
        published=printed_numbers(),
    output:
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
        json="results/tables/{table}.json",
        gains=expand("results/tables/{{table}}_gains.{kind}", kind=["csv", "md", "tex", "json"]),
    log:
        "results/logs/tables/{table}.log",
    benchmark:
        "results/benchmarks/tables/{table}.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        scale=PROJECT.scale,
        settings=lambda wildcards: PROJECT.tables[wildcards.table].model_dump(mode="json"),
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
        csv=report(
            "results/tables/efficiency.csv",
            caption="../report/efficiency.rst",
            category="Tables",
            labels={"table": "efficiency"},
        ),
        md="results/tables/efficiency.md",
        tex="results/tables/efficiency.tex",
        json="results/tables/efficiency.json",
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


rule published:
    input:
        published=printed_numbers(),
        tables=collect("results/tables/{table}.csv", table=PROJECT.tables),
        cards=cards(PLAN.shown_models()),
    output:
        csv=report(
            "results/tables/published.csv",
            caption="../report/published.rst",
            category="Tables",
            labels={"table": "published"},
        ),
        md="results/tables/published.md",
        tex="results/tables/published.tex",
        json="results/tables/published.json",
    log:
        "results/logs/published.log",
    benchmark:
        "results/benchmarks/published.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "Table of printed numbers, ours beside them"
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
        "results/tables/published.csv",
        "results/metrics.json",
        feature_outputs(),
        recognition_outputs(),


rule figures:
    input:
        table="results/tables/{table}.csv",
        costs=lambda wildcards: [f"results/complexity/{model}.json" for model in PLAN.table_models(wildcards.table)],
        scores=lambda wildcards: evaluated(wildcards.table),
        curves=lambda wildcards: curves(PLAN.table_models(wildcards.table)),
    output:
        bars=report(
            "results/figures/{table}/bars.png",
            caption="../report/bars.rst",
            category="Figures",
            labels={"table": "{table}", "figure": "bars"},
        ),
        costs=report(
            "results/figures/{table}/costs.png",
            caption="../report/costs.rst",
            category="Figures",
            labels={"table": "{table}", "figure": "costs"},
        ),
        curves=report(
            "results/figures/{table}/curves.png",
            caption="../report/curves.rst",
            category="Figures",
            labels={"table": "{table}", "figure": "curves"},
        ),
        qualitative=report(
            "results/figures/{table}/qualitative.png",
            caption="../report/qualitative.rst",
            category="Figures",
            labels={"table": "{table}", "figure": "pictures"},
        ),
    log:
        "results/logs/figures/{table}.log",
    benchmark:
        "results/benchmarks/figures/{table}.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        report=PROJECT.report.model_dump(mode="json", include={"zoom", "images_per_test", "models", "protocol"}),
    message:
        "Figures of table {wildcards.table}"
    script:
        "../../scripts/make_figures.py"


rule page:
    input:
        tables=[f"results/tables/{table}.json" for tables in page_sections().values() for table in tables],
        gains=collect("results/tables/{table}_gains.csv", table=PROJECT.tables),
        figures=[
            *table_figures(),
            *[path for path in [*feature_outputs(), *recognition_outputs()] if path.endswith(".png")],
            *gallery_outputs(),
        ],
        cards=cards([*PLAN.shown_models(), *PLAN.recognition_models(), *PLAN.gallery_models()]),
        scores=evaluated(*PROJECT.tables),
        lists=lambda wildcards: [f"results/pairs/{name}.json" for name in PLAN.folder_lists()],
        checks=lambda wildcards: [
            f"results/manifests/{name.removesuffix('_noleak')}.json" for name in PLAN.folder_lists()
        ],
        leakage=lambda wildcards: ["results/data/leakage.json"] if PLAN.folder_lists() else [],
    output:
        page=report(
            "results/report/index.html",
            caption="../report/page.rst",
            category="Page",
            labels={"page": "all results"},
        ),
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
        sections=page_sections(),
    message:
        "Report page"
    script:
        "../../scripts/make_report.py"
