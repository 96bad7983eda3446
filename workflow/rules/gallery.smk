# Networks that restore in stages at work: what each stage makes of the first image of some tests, and how uncertain
# the last one is.


rule show_stages:
    input:
        model=model_file,
        tests=[f"results/frozen/tests/{test}.yaml" for test in PROJECT.gallery.tests],
        pairs=pair_lists(PLAN.gallery_lists()),
    output:
        stages="results/stages/{model}.npz",
    log:
        "results/logs/stages/{model}.log",
    benchmark:
        "results/benchmarks/stages/{model}.tsv"
    conda:
        "../../envs/train.yaml"
    threads: PROJECT.compute_for("evaluate").threads
    resources:
        **evaluation_resources(),
    message:
        "Stages of {wildcards.model}"
    shell:
        "python scripts/show_stages.py {wildcards.model} --model {input.model} --tests {input.tests}"
        " --pairs {input.pairs} --output {output.stages} --threads {threads} {resources.machine} > {log} 2>&1"


rule gallery:
    input:
        stages=collect("results/stages/{model}.npz", model=PLAN.gallery_models()),
    output:
        stages=report(
            "results/figures/stages/stages.png",
            caption="../report/stages.rst",
            category="Figures",
            labels={"table": "stages", "figure": "stages"},
        ),
    log:
        "results/logs/figures/stages.log",
    benchmark:
        "results/benchmarks/figures/stages.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        models=PLAN.gallery_models(),
        tests=list(PROJECT.gallery.tests),
    message:
        "Gallery of networks that restore in stages"
    script:
        "../../scripts/make_figures.py"
