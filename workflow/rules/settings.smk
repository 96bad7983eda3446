# A stage's settings are frozen into its folder; the frozen file is the unit of re-run.


localrules:
    freeze_settings,
    clean_state,


rule freeze_settings:
    output:
        config="results/{method}/{setting}/seed{seed}/{stage}/config.yaml",
    log:
        "results/logs/{method}/{setting}/seed{seed}/{stage}.config.log",
    benchmark:
        "results/benchmarks/{method}/{setting}/seed{seed}/{stage}.config.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        mem_mb=500,
        runtime=5,
    params:
        settings=frozen_json,
    message:
        "{wildcards.method}/{wildcards.setting}, seed {wildcards.seed}: freeze the settings of {wildcards.stage}"
    shell:
        "python scripts/resolve_config.py {params.settings:q} --output {output.config} > {log} 2>&1"


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
