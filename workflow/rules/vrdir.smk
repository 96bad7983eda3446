# VRD-IR's own question: do the results hold on fresh seeds, which nothing was chosen by?


localrules:
    recognition_seeds,
    vrdir_seeds,


use rule recognition_tables as recognition_seeds with:
    input:
        results=lambda wildcards: recognition_results(PLAN.fresh_seeds(), of="vrdir"),  # others need no fresh data
        cards=lambda wildcards: recognition_cards(PLAN.fresh_seeds(), of="vrdir"),
        detections=[],
    output:
        recognition="results/tables/recognition_seeds.csv",
        recognition_md="results/tables/recognition_seeds.md",
        recognition_tex="results/tables/recognition_seeds.tex",
        recognition_json="results/tables/recognition_seeds.json",
        restoration="results/tables/restoration_seeds.csv",
        restoration_md="results/tables/restoration_seeds.md",
        restoration_tex="results/tables/restoration_seeds.tex",
        restoration_json="results/tables/restoration_seeds.json",
    log:
        "results/logs/recognition_seeds.log",
    benchmark:
        "results/benchmarks/recognition_seeds.tsv"
    message:
        "Tables of the recognition tests over fresh seeds"


rule vrdir_seeds:
    input:
        expand("results/tables/{name}_seeds.csv", name=["recognition", "restoration"]),
