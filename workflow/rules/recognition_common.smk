# What the recognition tests add to common.smk: which enhancers, recognisers, lists and detections they need. The
# chapters before them ask, too: what is trained and which lists are read follows from the tests.


def recognition_models():
    """Ids of the enhancers and recognisers of the recognition tests; none where they are off."""
    if not RECOGNITION.models:
        return []
    return list(dict.fromkeys(model_ids([*RECOGNITION.models, *RECOGNITION.recognisers.values()])))


def recognition_lists(seed, missing="told"):
    """Pair lists of the recognition tests, galleries included; none where they are off, or a seed without data is
    left out."""
    try:
        return PROJECT.recognition_lists(seed)
    except AirpipeError as error:
        if missing == "left out":
            return []
        raise WorkflowError(str(error)) from None


def recogniser_files(wildcards):
    """Model files of the frozen recognisers."""
    return [parent_file(model) for model in PROJECT.recognition_job(int(wildcards.seed)).recognisers.values()]


def recogniser_arguments(wildcards):
    """--recogniser arguments."""
    models = PROJECT.recognition_job(int(wildcards.seed)).recognisers
    return " ".join(f"--recogniser {name}={parent_file(model)}" for name, model in models.items())


def recognition_results(seeds, method=""):
    """Results of the recognition tests: no restoration first, then every enhancer (of a method), for each seed."""
    models = [model for model in RECOGNITION.models if model.startswith(method)]
    return [
        f"results/recognition/seed{seed}/{model}.json"
        for seed in seeds
        if models
        for model in dict.fromkeys(["none", *model_ids(models, [seed])])
    ]


def detection_files():
    """Annotations and detections that the recognition tables score, on this machine."""
    found = {}
    for name, entry in RECOGNITION.detections.items() if RECOGNITION.models else ():
        where = f"recognition.detections.{name}"
        try:
            files = {variant: place(file, f"{where}.{variant}") for variant, file in entry.detections.items()}
            found[name] = {"annotations": place(entry.annotations, f"{where}.annotations"), "detections": files}
        except AirpipeError as error:
            raise WorkflowError(str(error)) from None
    return found


def detection_inputs():
    """The same as a list of files."""
    return [
        file for files in detection_files().values() for file in (files["annotations"], *files["detections"].values())
    ]


def detection_texts():
    """What the tables say of each set of detections."""
    texts = {"recogniser", "degradation", "level"}
    return {name: entry.model_dump(include=texts) for name, entry in RECOGNITION.detections.items()}


def recognition_abouts():
    """What the configuration says about each enhancer's setting."""
    parts = [model.split("/") for model in trained(RECOGNITION.models)]
    shown = sorted({f"{method}/{setting}" for method, setting, *_ in parts})
    return {model: PROJECT.setting_plan(model).about for model in shown}


def recognition_branches():
    """Names of the branches of each enhancer that has some, in the order of its guidance maps."""
    found = {}
    for model in trained(model_ids(RECOGNITION.models)):
        method, setting, seed, stage = model.split("/")
        found[model] = list(getattr(stage_settings(method, setting, seed.removeprefix("seed"), stage), "branches", ()))
    return {model: branches for model, branches in found.items() if branches}


def recognition_outputs():
    """Tables and figures of the recognition tests; none where they are off."""
    if not RECOGNITION.models:
        return []
    figures = [f"results/figures/recognition/{name}.png" for name in ("top1", "pictures")]
    return ["results/tables/recognition.csv", "results/tables/restoration.csv", *figures]


def fresh_tables(wildcards):
    """Tables over fresh seeds."""
    if not RECOGNITION.models:
        raise WorkflowError(
            f"vrdir_seeds: scale {PROJECT.scale} has no recognition tests; name enhancers in recognition.models"
        )
    return [f"results/tables/{name}_seeds.csv" for name in ("recognition", "restoration")]
