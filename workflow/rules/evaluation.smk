# Each model restores each test once and is scored under every protocol of it; `none` restores nothing.


localrules:
    evaluate_tests,


rule evaluate:
    input:
        model=model_file,
        pairs=test_pairs,
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
    threads: stage_threads("evaluate")
    resources:
        **evaluation_resources(),
    params:
        test=test_json,
        protocols=protocols_json,
    message:
        "Test {wildcards.test}: score {wildcards.model}"
    shell:
        "python scripts/evaluate.py {wildcards.model} --model {input.model} --pairs {input.pairs}"
        " --name {wildcards.test} --test {params.test:q} --protocols {params.protocols:q}"
        " --scores {output.scores} --restored {output.restored} --threads {threads}"
        " {resources.machine} > {log} 2>&1"


rule complexity:
    input:
        model="results/{model}/model.safetensors",
    output:
        cost="results/complexity/{model}.json",
    log:
        "results/logs/complexity/{model}.log",
    benchmark:
        "results/benchmarks/complexity/{model}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: stage_threads("evaluate")
    resources:
        **evaluation_resources(),
    message:
        "Parameters, operations and latency of {wildcards.model}"
    shell:
        "python scripts/measure_cost.py {wildcards.model} --model {input.model} --output {output.cost}"
        " --threads {threads} {resources.machine} > {log} 2>&1"


rule evaluate_tests:
    input:
        sorted({path for table in PROJECT.tables for path in table_scores(table)}),
