# Files of results, by the ids of the plan: what evaluation, studies and report hand to each other.
FIGURES = ["bars", "costs", "curves", "qualitative"]


def cards(models):
    """Cards of models, each once: variants share one."""
    return list(dict.fromkeys(f"results/{ModelId.parse(model).folder}/card.json" for model in models))


def curves(models):
    """Curves of the models that were trained here, each once."""
    return list(dict.fromkeys(f"results/{ModelId.parse(model).folder}/curves.csv" for model in trained(models)))


def evaluated(*tables):
    """Files that say what the models of tables scored: one for each table and model."""
    return [f"results/evaluated/{table}/{model}.json" for table, model in PLAN.evaluations(*tables)]


def printed_numbers():
    """Files of what papers print, and of what must be known to compare."""
    names = glob_wildcards(r"resources/published/{name,\w+\.(csv|yaml)}").name
    return [f"resources/published/{name}" for name in sorted(names)]


def recognition_results(seeds, kind="json", of=""):
    """Results of the recognition tests, for enhancers of all methods or of one."""
    return [f"results/recognition/seed{seed}/{model}.{kind}" for seed, model in PLAN.recognised(seeds, of)]


def recognition_cards(seeds, of=""):
    """Cards of the enhancers in those results."""
    return cards([model for _, model in PLAN.recognised(seeds, of) if model != NONE])


def feature_outputs():
    """Table and figures of the feature analysis; none where it is off, and no figures of retrieval alone."""
    names = ["tsne", "confusion"] if PROJECT.features.models else []
    figures = expand("results/figures/features/{name}.png", name=names)
    return ["results/tables/features.csv", *figures] if PROJECT.has_features else []


def page_sections():
    """Names of the tables in each section of the page."""
    sections = {table: [table, f"{table}_gains"] for table in PROJECT.tables}
    sections |= {name: [name] for name in ("published", "efficiency")}
    if PROJECT.has_features:
        sections["features"] = ["features"]
    if RECOGNITION.models:
        sections["recognition"] = ["recognition", "restoration"]
    if PROJECT.gallery.models:
        sections["stages"] = []  # a figure alone
    return sections


def table_figures():
    """Figures of those tables that have some."""
    drawn = [name for name, table in PROJECT.tables.items() if table.figures]
    return expand("results/figures/{table}/{figure}.png", table=drawn, figure=FIGURES)


def gallery_outputs():
    """The figure of networks that restore in stages; none where there is no gallery."""
    return ["results/figures/stages/stages.png"] if PROJECT.gallery.models else []


def recognition_outputs():
    """Tables and figures of the recognition tests; none where they are off."""
    tables = expand("results/tables/{name}.csv", name=["recognition", "restoration"])
    figures = expand("results/figures/recognition/{name}.png", name=["top1", "pictures"])
    return [*tables, *figures] if RECOGNITION.models else []
