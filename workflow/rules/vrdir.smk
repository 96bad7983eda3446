# VRD-IR: recognisers learn from clean images (the first gives the encoder), then the decoder (SAD), one branch for
# each degradation (DNC), and their fusion (ISE).


localrules:
    train_vrdir,


rule vrdir_recogniser:
    input:
        config="results/vrdir/{setting}/seed{seed}/recogniser_{which}/config.yaml",
        train=training_pairs("vrdir", "recogniser_{which}"),
        val=validation_pairs("vrdir", "recogniser_{which}"),
        packs=training_packs("vrdir", "recogniser_{which}"),
        parents=parent_models("vrdir", "recogniser_{which}"),
    output:
        model="results/vrdir/{setting}/seed{seed}/recogniser_{which}/model.safetensors",
        card="results/vrdir/{setting}/seed{seed}/recogniser_{which}/card.json",
        curves="results/vrdir/{setting}/seed{seed}/recogniser_{which}/curves.csv",
    log:
        "results/logs/vrdir/{setting}/seed{seed}/recogniser_{which}.log",
    benchmark:
        "results/benchmarks/vrdir/{setting}/seed{seed}/recogniser_{which}.tsv"
    priority: 1
    conda:
        "../../envs/train.yaml"
    threads: stage_threads("vrdir.recogniser")
    resources:
        **stage_resources("vrdir.recogniser"),
    params:
        workdir=subpath(output.model, parent=True),
        parents=parent_arguments("vrdir", "recogniser_{which}"),
    message:
        "VRD-IR {wildcards.setting}, seed {wildcards.seed}: recogniser {wildcards.which}"
    shell:
        "{resources.launch} scripts/train.py --config {input.config} --train {input.train} --val {input.val}"
        " --packs {input.packs} {params.parents} --workdir {params.workdir} --threads {threads} {resources.machine}"
        " > {log} 2>&1"


use rule vrdir_recogniser as vrdir_sad with:
    input:
        config="results/vrdir/{setting}/seed{seed}/sad/config.yaml",
        train=training_pairs("vrdir", "sad"),
        val=validation_pairs("vrdir", "sad"),
        packs=training_packs("vrdir", "sad"),
        parents=parent_models("vrdir", "sad"),
    output:
        model="results/vrdir/{setting}/seed{seed}/sad/model.safetensors",
        card="results/vrdir/{setting}/seed{seed}/sad/card.json",
        curves="results/vrdir/{setting}/seed{seed}/sad/curves.csv",
    log:
        "results/logs/vrdir/{setting}/seed{seed}/sad.log",
    benchmark:
        "results/benchmarks/vrdir/{setting}/seed{seed}/sad.tsv"
    threads: stage_threads("vrdir.sad")
    resources:
        **stage_resources("vrdir.sad"),
    params:
        workdir=subpath(output.model, parent=True),
        parents=parent_arguments("vrdir", "sad"),
    message:
        "VRD-IR {wildcards.setting}, seed {wildcards.seed}: SAD, the decoder"


use rule vrdir_recogniser as vrdir_dnc with:
    input:
        config="results/vrdir/{setting}/seed{seed}/dnc_{degradation}/config.yaml",
        train=training_pairs("vrdir", "dnc_{degradation}"),
        val=validation_pairs("vrdir", "dnc_{degradation}"),
        packs=training_packs("vrdir", "dnc_{degradation}"),
        parents=parent_models("vrdir", "dnc_{degradation}"),
    output:
        model="results/vrdir/{setting}/seed{seed}/dnc_{degradation}/model.safetensors",
        card="results/vrdir/{setting}/seed{seed}/dnc_{degradation}/card.json",
        curves="results/vrdir/{setting}/seed{seed}/dnc_{degradation}/curves.csv",
    log:
        "results/logs/vrdir/{setting}/seed{seed}/dnc_{degradation}.log",
    benchmark:
        "results/benchmarks/vrdir/{setting}/seed{seed}/dnc_{degradation}.tsv"
    threads: stage_threads("vrdir.dnc")
    resources:
        **stage_resources("vrdir.dnc"),
    params:
        workdir=subpath(output.model, parent=True),
        parents=parent_arguments("vrdir", "dnc_{degradation}"),
    message:
        "VRD-IR {wildcards.setting}, seed {wildcards.seed}: branch for {wildcards.degradation}"


use rule vrdir_recogniser as vrdir_ise with:
    input:
        config="results/vrdir/{setting}/seed{seed}/ise/config.yaml",
        train=training_pairs("vrdir", "ise"),
        val=validation_pairs("vrdir", "ise"),
        packs=training_packs("vrdir", "ise"),
        parents=parent_models("vrdir", "ise"),
    output:
        model="results/vrdir/{setting}/seed{seed}/ise/model.safetensors",
        card="results/vrdir/{setting}/seed{seed}/ise/card.json",
        curves="results/vrdir/{setting}/seed{seed}/ise/curves.csv",
    log:
        "results/logs/vrdir/{setting}/seed{seed}/ise.log",
    benchmark:
        "results/benchmarks/vrdir/{setting}/seed{seed}/ise.tsv"
    threads: stage_threads("vrdir.ise")
    resources:
        **stage_resources("vrdir.ise"),
    params:
        workdir=subpath(output.model, parent=True),
        parents=parent_arguments("vrdir", "ise"),
    message:
        "VRD-IR {wildcards.setting}, seed {wildcards.seed}: ISE, the fusion"


rule train_vrdir:
    input:
        lambda wildcards: train_targets("vrdir"),
