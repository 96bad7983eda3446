# DCPT: a backbone learns to tell degradations apart (pretrain: dcpt.pretrain, direct or masked_pretrain), then
# to remove them (finetune); beside that a probe of frozen features, and transfer with and without a guide.


localrules:
    train_dcpt,


rule dcpt_pretrain:
    input:
        config="results/dcpt/{setting}/seed{seed}/pretrain/config.yaml",
        train=training_pairs("dcpt", "pretrain"),
        val=validation_pairs("dcpt", "pretrain"),
        packs=training_packs("dcpt", "pretrain"),
        parents=parent_models("dcpt", "pretrain"),
    output:
        model="results/dcpt/{setting}/seed{seed}/pretrain/model.safetensors",
        card="results/dcpt/{setting}/seed{seed}/pretrain/card.json",
        curves="results/dcpt/{setting}/seed{seed}/pretrain/curves.csv",
    log:
        "results/logs/dcpt/{setting}/seed{seed}/pretrain.log",
    benchmark:
        "results/benchmarks/dcpt/{setting}/seed{seed}/pretrain.tsv"
    priority: 1
    conda:
        "../../envs/train.yaml"
    threads: stage_threads("dcpt.pretrain")
    resources:
        **stage_resources("dcpt.pretrain"),
    params:
        workdir=subpath(output.model, parent=True),
        parents=parent_arguments("dcpt", "pretrain"),
    message:
        "DCPT {wildcards.setting}, seed {wildcards.seed}: pretrain"
    shell:
        "{resources.launch} scripts/train.py --config {input.config} --train {input.train} --val {input.val}"
        " --packs {input.packs} {params.parents} --workdir {params.workdir} --threads {threads} {resources.machine}"
        " > {log} 2>&1"


use rule dcpt_pretrain as dcpt_finetune with:
    input:
        config="results/dcpt/{setting}/seed{seed}/finetune/config.yaml",
        train=training_pairs("dcpt", "finetune"),
        val=validation_pairs("dcpt", "finetune"),
        packs=training_packs("dcpt", "finetune"),
        parents=parent_models("dcpt", "finetune"),
    output:
        model="results/dcpt/{setting}/seed{seed}/finetune/model.safetensors",
        card="results/dcpt/{setting}/seed{seed}/finetune/card.json",
        curves="results/dcpt/{setting}/seed{seed}/finetune/curves.csv",
    log:
        "results/logs/dcpt/{setting}/seed{seed}/finetune.log",
    benchmark:
        "results/benchmarks/dcpt/{setting}/seed{seed}/finetune.tsv"
    threads: stage_threads("dcpt.finetune")
    resources:
        **stage_resources("dcpt.finetune"),
    params:
        workdir=subpath(output.model, parent=True),
        parents=parent_arguments("dcpt", "finetune"),
    message:
        "DCPT {wildcards.setting}, seed {wildcards.seed}: finetune"


use rule dcpt_pretrain as dcpt_probe with:
    input:
        config="results/dcpt/{setting}/seed{seed}/probe/config.yaml",
        train=training_pairs("dcpt", "probe"),
        val=validation_pairs("dcpt", "probe"),
        packs=training_packs("dcpt", "probe"),
        parents=parent_models("dcpt", "probe"),
    output:
        model="results/dcpt/{setting}/seed{seed}/probe/model.safetensors",
        card="results/dcpt/{setting}/seed{seed}/probe/card.json",
        curves="results/dcpt/{setting}/seed{seed}/probe/curves.csv",
    log:
        "results/logs/dcpt/{setting}/seed{seed}/probe.log",
    benchmark:
        "results/benchmarks/dcpt/{setting}/seed{seed}/probe.tsv"
    threads: stage_threads("dcpt.probe")
    resources:
        **stage_resources("dcpt.probe"),
    params:
        workdir=subpath(output.model, parent=True),
        parents=parent_arguments("dcpt", "probe"),
    message:
        "DCPT {wildcards.setting}, seed {wildcards.seed}: probe"


use rule dcpt_pretrain as dcpt_transfer with:
    input:
        config="results/dcpt/{setting}/seed{seed}/transfer/config.yaml",
        train=training_pairs("dcpt", "transfer"),
        val=validation_pairs("dcpt", "transfer"),
        packs=training_packs("dcpt", "transfer"),
        parents=parent_models("dcpt", "transfer"),
    output:
        model="results/dcpt/{setting}/seed{seed}/transfer/model.safetensors",
        card="results/dcpt/{setting}/seed{seed}/transfer/card.json",
        curves="results/dcpt/{setting}/seed{seed}/transfer/curves.csv",
    log:
        "results/logs/dcpt/{setting}/seed{seed}/transfer.log",
    benchmark:
        "results/benchmarks/dcpt/{setting}/seed{seed}/transfer.tsv"
    threads: stage_threads("dcpt.transfer")
    resources:
        **stage_resources("dcpt.transfer"),
    params:
        workdir=subpath(output.model, parent=True),
        parents=parent_arguments("dcpt", "transfer"),
    message:
        "DCPT {wildcards.setting}, seed {wildcards.seed}: transfer"


rule train_dcpt:
    input:
        lambda wildcards: train_targets("dcpt"),
