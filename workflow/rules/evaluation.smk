# Each model goes through all tests of a table in one job, and is scored under every protocol of each; `none` restores
# nothing. Scores and pictures are not declared: Snakemake would remove them before a job that has to redo one of them.
include: "evaluation_common.smk"


localrules:
    evaluate_tests,


rule evaluate:
    input:
        model=model_file,
        tests=lambda wildcards: [
            f"results/frozen/tests/{test}.yaml" for test in PLAN.table_tests(wildcards.table, wildcards.model)
        ],
        pairs=lambda wildcards: pair_lists(PLAN.table_lists(wildcards.table, wildcards.model)),
    output:
        index="results/evaluated/{table}/{model}.json",
    log:
        "results/logs/evaluate/{table}/{model}.log",
    benchmark:
        "results/benchmarks/evaluate/{table}/{model}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: PROJECT.compute_for("evaluate").threads
    resources:
        **evaluation_resources(),
    message:
        "Table {wildcards.table}: score {wildcards.model} on its tests"
    shell:
        "python scripts/evaluate.py {wildcards.model} --table {wildcards.table} --model {input.model}"
        " --tests {input.tests} --pairs {input.pairs} --scores results/scores/{wildcards.model}"
        " --restored results/restored/{wildcards.model} --index {output.index} --threads {threads}"
        " {resources.machine} > {log} 2>&1"


rule complexity:
    input:
        model=model_file,
    output:
        cost="results/complexity/{model}.json",
    log:
        "results/logs/complexity/{model}.log",
    benchmark:
        "results/benchmarks/complexity/{model}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: PROJECT.compute_for("evaluate").threads
    resources:
        **evaluation_resources(),
    message:
        "Parameters, operations and latency of {wildcards.model}"
    shell:
        "python scripts/measure_cost.py {wildcards.model} --model {input.model} --output {output.cost}"
        " --threads {threads} {resources.machine} > {log} 2>&1"


rule evaluate_tests:
    input:
        evaluated(*PROJECT.tables),
