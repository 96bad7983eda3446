# Each model restores each test once and is scored under every protocol of it; `none` restores nothing.
include: "evaluation_common.smk"


localrules:
    evaluate_tests,


rule evaluate:
    input:
        model=model_file,
        test="results/frozen/tests/{test}.yaml",
        pairs=lambda wildcards: pair_lists([PLAN.test_job(wildcards.test).test.pairs]),
    output:
        scores="results/scores/{model}/{test}.csv",
        facts="results/scores/{model}/{test}.json",
        restored=directory("results/restored/{model}/{test}"),
    log:
        "results/logs/evaluate/{model}/{test}.log",
    benchmark:
        "results/benchmarks/evaluate/{model}/{test}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: PROJECT.compute_for("evaluate").threads
    resources:
        **evaluation_resources(),
    message:
        "Test {wildcards.test}: score {wildcards.model}"
    shell:
        "python scripts/evaluate.py {wildcards.model} --model {input.model} --pairs {input.pairs}"
        " --test {input.test} --scores {output.scores} --restored {output.restored} --threads {threads}"
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
        score_files(*PROJECT.tables),
