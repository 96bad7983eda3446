# Every training stage of every method is the same job: frozen settings, pair lists, packs and parents in; a model,
# its card and its curves out. The chain of a method's stages stands in config/methods/<name>.yaml.
include: "train_common.smk"


for stage in training_rules():  # "mine.branch" has rule mine_branch, and a folder such as branch_{degradation}

    rule:
        name:
            stage.name
        input:
            **stage_inputs(stage),
            config=f"results/{stage.path}/config.yaml",
        output:
            model=f"results/{stage.path}/model.safetensors",
            card=f"results/{stage.path}/card.json",
            curves=f"results/{stage.path}/curves.csv",
        log:
            f"results/logs/{stage.path}.log",
        benchmark:
            f"results/benchmarks/{stage.path}.tsv"
        wildcard_constraints:
            **dict.fromkeys(stage.wildcards, PART),
        priority: stage.priority
        conda:
            "../../envs/train.yaml"
        threads: PROJECT.compute_for(stage.task).threads
        resources:
            **stage_resources(stage),
        params:
            workdir=subpath(output.model, parent=True),
            parents=parent_arguments(stage),
        message:
            stage.message
        shell:
            "{resources.launch} scripts/train.py --config {input.config} --train {input.train} --val {input.val}"
            " --packs {input.packs} {params.parents} --workdir {params.workdir} --threads {threads}"
            " {resources.machine} > {log} 2>&1"


for name in METHODS:  # train_<method>: its stages that the chosen models and the tables need

    rule:
        name:
            f"train_{name}"
        input:
            models=models_of(name),
        output:
            table=f"results/trained/{name}.csv",
            curves=f"results/trained/{name}_curves.csv",
        log:
            f"results/logs/trained/{name}.log",
        localrule: True
        conda:
            "../../envs/report.yaml"
        resources:
            mem_mb=1000,
            runtime=10,
        message:
            f"Record the models of {name}"
        shell:
            "python scripts/record_training.py {input.models} --output {output.table} --curves {output.curves}"
            " > {log} 2>&1"
