# Settings are frozen into small files before they are used: a stage's into its folder, all others below
# results/frozen. A frozen file is the unit of re-run; it is written anew where its lines change. Scripts get its path.


localrules:
    freeze_settings,
    freeze,
    clean_state,


rule freeze_settings:
    output:
        config="results/{method}/{setting}/seed{seed}/{stage}/config.yaml",
    log:
        "results/logs/{method}/{setting}/seed{seed}/{stage}.config.log",
    priority: FIRST
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        lines=lambda wildcards: PLAN.frozen_stage("{w.method}/{w.setting}/seed{w.seed}/{w.stage}".format(w=wildcards)),
    message:
        "{wildcards.method}/{wildcards.setting}, seed {wildcards.seed}: freeze the settings of {wildcards.stage}"
    shell:
        "printf '%s\\n' {params.lines:q} > {output.config} 2> {log}"


rule freeze:
    output:
        settings="results/frozen/{kind}/{name}.yaml",
    log:
        "results/logs/frozen/{kind}/{name}.log",
    wildcard_constraints:
        kind="|".join(PLAN.frozen_kinds),
        name="[a-z0-9_.]+",
    priority: FIRST
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        lines=lambda wildcards: PLAN.frozen(wildcards.kind, wildcards.name),
    message:
        "Freeze the settings of {wildcards.kind}: {wildcards.name}"
    shell:
        "printf '%s\\n' {params.lines:q} > {output.settings} 2> {log}"


rule clean_state:
    log:
        "results/logs/clean_state.log",
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=500,
        runtime=10,
    message:
        "Remove the checkpoints of finished stages"
    shell:
        "python scripts/clean_state.py results 2>&1 | tee {log}"
