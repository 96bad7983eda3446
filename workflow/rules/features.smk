# Do features tell degradations apart? kNN, t-SNE and the trained classifier, for the checkpoints in `features.models`;
# nearest neighbours in the embeddings of those in `features.retrieval`.


localrules:
    features_table,


rule features_knn:
    input:
        model=model_file,
        features="results/frozen/studies/features.yaml",
        pairs=pair_lists(PLAN.feature_lists()),
    output:
        facts="results/features/{model}/{init}.json",
    log:
        "results/logs/features/{model}/{init}.log",
    benchmark:
        "results/benchmarks/features/{model}/{init}.tsv"
    wildcard_constraints:
        init="random|trained",
    conda:
        "../../envs/train.yaml"
    threads: PROJECT.compute_for("evaluate").threads
    resources:
        **evaluation_resources(),
    message:
        "Features of {wildcards.model}, {wildcards.init} weights: kNN, t-SNE, classifier"
    shell:
        "python scripts/probe_features.py {wildcards.model} --model {input.model} --init {wildcards.init}"
        " --features {input.features} --pairs {input.pairs} --output {output.facts} --threads {threads}"
        " {resources.machine} > {log} 2>&1"


rule features_retrieval:
    input:
        model=model_file,
        retrieval="results/frozen/studies/retrieval.yaml",
        pairs=pair_lists(PLAN.retrieval_lists()),
    output:
        facts="results/features/{model}/retrieval.json",
    log:
        "results/logs/features/{model}/retrieval.log",
    benchmark:
        "results/benchmarks/features/{model}/retrieval.tsv"
    conda:
        "../../envs/train.yaml"
    threads: PROJECT.compute_for("evaluate").threads
    resources:
        **evaluation_resources(),
    message:
        "Embeddings of {wildcards.model}: is the nearest image degraded alike?"
    shell:
        "python scripts/retrieve_degradations.py {wildcards.model} --model {input.model}"
        " --retrieval {input.retrieval} --pairs {input.pairs} --output {output.facts} --threads {threads}"
        " {resources.machine} > {log} 2>&1"


rule features_table:
    input:
        features=collect(
            "results/features/{model}/{init}.json", model=PLAN.feature_models(), init=["random", "trained"]
        ),
        retrieval=collect("results/features/{model}/retrieval.json", model=PLAN.retrieval_models()),
        cards=cards([*PLAN.feature_models(), *PLAN.retrieval_models()]),
        published="resources/published/features.csv",
    output:
        csv=report(
            "results/tables/features.csv",
            caption="../report/features.rst",
            category="Tables",
            labels={"table": "features"},
        ),
        md="results/tables/features.md",
        tex="results/tables/features.tex",
        json="results/tables/features.json",
    log:
        "results/logs/features_table.log",
    benchmark:
        "results/benchmarks/features_table.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=10,
    message:
        "Table of the feature analysis"
    script:
        "../../scripts/make_tables.py"


rule features_figures:
    input:
        features=collect(
            "results/features/{model}/{init}.json", model=PLAN.feature_models(), init=["random", "trained"]
        ),
    output:
        tsne=report(
            "results/figures/features/tsne.png",
            caption="../report/tsne.rst",
            category="Figures",
            labels={"table": "features", "figure": "t-SNE"},
        ),
        confusion=report(
            "results/figures/features/confusion.png",
            caption="../report/confusion.rst",
            category="Figures",
            labels={"table": "features", "figure": "confusion"},
        ),
    log:
        "results/logs/figures/features.log",
    benchmark:
        "results/benchmarks/figures/features.tsv"
    conda:
        "../../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=20,
    message:
        "t-SNE and confusion matrices of the feature analysis"
    script:
        "../../scripts/make_figures.py"
