# The baseline has one stage: a network learns all degradations from pairs, from scratch.


localrules:
    train_baseline,


rule baseline_train:
    input:
        config="results/baseline/{setting}/seed{seed}/train/config.yaml",
        train=training_pairs("baseline", "train"),
        val=validation_pairs("baseline", "train"),
        packs=training_packs("baseline", "train"),
    output:
        model="results/baseline/{setting}/seed{seed}/train/model.safetensors",
        card="results/baseline/{setting}/seed{seed}/train/card.json",
        curves="results/baseline/{setting}/seed{seed}/train/curves.csv",
    log:
        "results/logs/baseline/{setting}/seed{seed}/train.log",
    benchmark:
        "results/benchmarks/baseline/{setting}/seed{seed}/train.tsv"
    priority: 1
    conda:
        "../../envs/train.yaml"
    threads: stage_threads("baseline.train")
    resources:
        **stage_resources("baseline.train"),
    params:
        workdir=subpath(output.model, parent=True),
    message:
        "Baseline {wildcards.setting}, seed {wildcards.seed}: train"
    shell:
        "{resources.launch} scripts/train.py --config {input.config} --train {input.train} --val {input.val}"
        " --packs {input.packs} --workdir {params.workdir} --threads {threads} {resources.machine} > {log} 2>&1"


rule train_baseline:
    input:
        lambda wildcards: train_targets("baseline"),
