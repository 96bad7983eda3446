# Questions that training asks of the plan. Functions get the stage as an argument: one that saw the loop's variable
# would see the last stage.


def model_of(stage, wildcards):
    """Id of the model that a job of a stage trains."""
    return stage.path.format(**dict(wildcards.items()))


def stage_inputs(stage):
    """Input functions of a stage: lists of its mix and its validation, packs and parents."""
    return {
        "train": lambda wildcards: pair_lists(PLAN.mix(model_of(stage, wildcards))),
        "val": lambda wildcards: pair_lists(PLAN.validation(model_of(stage, wildcards))),
        "packs": lambda wildcards: packs(PLAN.mix(model_of(stage, wildcards))),
        "parents": lambda wildcards: [weights(model) for model in parents(stage, wildcards).values()],
    }


def parents(stage, wildcards):
    """Role and model id of the parents of a job."""
    return PLAN.parents_of(model_of(stage, wildcards))


def parent_arguments(stage):
    """Params function: --parent arguments of a stage."""

    def arguments(wildcards):
        return " ".join(f"--parent {role}={weights(model)}" for role, model in parents(stage, wildcards).items())

    return arguments


def stage_resources(stage):
    """Resources of a stage: what it asks of the scheduler, how it starts, and what it is told of the machine."""
    compute = PROJECT.compute_for(stage.task)

    def machine(wildcards, input, attempt):
        return (
            f"--gpus {compute.gpu} --nodes {compute.nodes} --workers {compute.workers}"
            f" --degrade {compute.degrade} --checkpoint-seconds {compute.checkpoint_seconds} --attempt {attempt}"
            f" --manifests {' '.join(manifests([*input.train, *input.val]))} {roots(input)}"
        )

    return asked_of_scheduler(compute) | {"launch": launcher(compute), "machine": machine}


def manifests(lists):
    """Manifests of pair lists, from which these were made (no input: a new one redoes nothing); curated ones have none."""
    names = {os.path.basename(path).removesuffix(".csv").removesuffix("_noleak") for path in lists}
    return [f"results/manifests/{name}.csv" for name in sorted(names) if not PLAN.dataset_of(name).curated]


def models_of(method):
    """Input function: models of a method that the chosen ones and the tables need."""
    return lambda wildcards: [weights(model) for model in PLAN.models_of(method)]
