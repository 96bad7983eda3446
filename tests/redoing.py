"""What a change of the configuration redoes, as a function of two plans: the rules' inputs and params, said once more.

`test_reruns.py` holds it against what Snakemake plans. A job is its rule and a name: a model, a pair list, a test...
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from airpipe.plan import Plan, training_rules
from airpipe.plan.datasets import NOLEAK
from airpipe.registry import runs_as
from airpipe.settings.names import NONE, ModelId

Job = tuple[str, str]
TRAINING = {rule.name for rule in training_rules()}


@dataclass(frozen=True)
class Needs:
    """Another param or input redoes a job, and so does an input that is redone; `once` has to be there only."""

    params: object = None
    inputs: tuple[Job, ...] = ()
    once: tuple[Job, ...] = ()


def redone(before: Plan | None, after: Plan, goals: Iterable[Job] | None = None) -> dict[str, set[str]]:
    """Names of the jobs by rule that `after` runs where everything of `before` is done; `goals`: instead of all."""
    done, wanted = jobs(before) if before else {}, jobs(after, goals)

    @cache
    def again(job: Job) -> bool:
        new, old = wanted[job], done.get(job)
        if old is None or (new.params, set(new.inputs)) != (old.params, set(old.inputs)):
            return True
        return any(again(one) for one in new.inputs)

    found: dict[str, set[str]] = {}
    for rule, name in filter(again, wanted):
        found.setdefault(rule, set()).add(name)
    return found


def trainings(found: dict[str, set[str]]) -> set[str]:
    """The models that are trained again."""
    return {name for rule in TRAINING & set(found) for name in found[rule]}


def counted(found: dict[str, set[str]]) -> dict[str, int]:
    """Number of jobs by rule, as `workflow.planned` tells them."""
    return {rule: len(names) for rule, names in found.items() if rule != "freeze"}


def jobs(plan: Plan, goals: Iterable[Job] | None = None) -> dict[Job, Needs]:
    """Every job that leads to the goals, with what it needs."""
    waiting, found = list(all_goals(plan) if goals is None else goals), {}
    while waiting:
        job = waiting.pop()
        if job not in found:
            rule, name = job
            needs = found[job] = (train if rule in TRAINING else RULES[rule])(plan, name)
            waiting += [*needs.inputs, *needs.once]
    return found


def all_goals(plan: Plan) -> Iterator[Job]:
    """The targets `all` and `data`."""
    yield from (("page", ""), ("efficiency", ""), ("published", ""), ("metrics", ""), ("leakage", ""))
    yield from lists(plan.checked_lists())
    yield from (("pack", name) for name in plan.not_embedded(plan.training_lists()))
    yield from (("make_dataset", name) for name in plan.made_sets())


# Settings


def freeze(plan, name):
    return Needs(plan.frozen(*name.split("/")))


def freeze_settings(plan, model):
    return Needs(plan.frozen_stage(model))


# Data


def lists(names):
    return tuple(("remove_leaks" if name.endswith(NOLEAK) else "pairs", name.removesuffix(NOLEAK)) for name in names)


def content(plan, name):
    file = plan.list_file(name)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None


def fetch_dataset(plan, name):
    return Needs(once=(("freeze", f"sources/{name}"),))


def make_dataset(plan, name):
    source = plan.made_from(name)
    once = (("fetch_dataset", source),) if source else ()
    return Needs(inputs=(("freeze", f"made/{name}"),), once=once)


def manifest(plan, name):
    entry, dataset = plan.dataset_of(name), name.split(".")[0]
    made = (("make_dataset", dataset),) if entry.made else ()
    once = () if entry.made or entry.packages else (("fetch_dataset", dataset),)
    inputs = (*made, ("freeze", f"pairs/{name}"))
    return Needs(content(plan, name), inputs, (*once, ("freeze", f"splits/{name}")))


def pairs(plan, name):
    return Needs(content(plan, name), (("manifest", name), ("freeze", f"pairs/{name}")))


def fingerprint(plan, name):
    return Needs(inputs=lists([name]))


def prints(names):
    return tuple(("fingerprint", name) for name in names)


def leakage(plan, _):
    train, test = plan.compared_lists()
    return Needs(inputs=prints([*train, *test]))


def remove_leaks(plan, name):
    return Needs(inputs=(*lists([name]), *prints([name, *plan.leak_tests()])))


def pack(plan, name):
    return Needs(plan.packed(name), (*lists([name]), ("manifest", name.removesuffix(NOLEAK))))


# Training and evaluation


def trained(plan, models):
    folders = dict.fromkeys(ModelId.parse(model).folder for model in models if ModelId.parse(model).trained)
    return tuple((runs_as(plan.stage_settings(model).task).replace(".", "_"), model) for model in folders)


def train(plan, model):
    parents, mix = plan.parents_of(model), plan.mix(model)
    inputs = [*lists([*mix, *plan.validation(model)]), *trained(plan, parents.values()), ("freeze_settings", model)]
    return Needs(parents, tuple(inputs), tuple(("pack", name) for name in plan.not_embedded(mix)))


def evaluate(plan, name):
    table, model = name.split("/", 1)
    settings = plan.project.tables[table]
    own = [group.tests for group in settings.groups if model in plan.model_ids(group.models)]
    names = (own[0] if own else None) or settings.tests
    pairs = {plan.project.tests[test].pairs for test in names}
    tests = tuple(("freeze", f"tests/{test}") for test in names)
    return Needs(inputs=(*trained(plan, [model]), *tests, *lists(sorted(pairs))))


def complexity(plan, model):
    return Needs(inputs=trained(plan, [model]))


def scores(plan, *tables):
    return tuple(("evaluate", f"{table}/{model}") for table, model in plan.evaluations(*tables))


# Studies


def features_knn(plan, name):
    inputs = [*trained(plan, [name.rsplit("/", 1)[0]]), ("freeze", "studies/features"), *lists(plan.feature_lists())]
    return Needs(inputs=tuple(inputs))


def features_retrieval(plan, model):
    return Needs(inputs=(*trained(plan, [model]), ("freeze", "studies/retrieval"), *lists(plan.retrieval_lists())))


def features_knns(plan, _):
    known = [f"{model}/{init}" for model in plan.feature_models() for init in ("random", "trained")]
    return Needs(inputs=tuple(("features_knn", name) for name in known))


def features(plan, _):
    searched = (("features_retrieval", model) for model in plan.retrieval_models())
    cards = trained(plan, [*plan.feature_models(), *plan.retrieval_models()])
    return Needs(inputs=(*features_knns(plan, "").inputs, *searched, *cards))


def show_stages(plan, model):
    tests = tuple(("freeze", f"tests/{test}") for test in plan.project.gallery.tests)
    return Needs(inputs=(*trained(plan, [model]), *tests, *lists(plan.gallery_lists())))


def gallery(plan, _):
    models = plan.gallery_models()
    return Needs((models, plan.project.gallery.tests), tuple(("show_stages", model) for model in models))


def recognise(plan, name):
    seed, model = name.removeprefix("seed").split("/", 1)
    judges, found = plan.recognisers(int(seed)), lists(plan.recognition_lists(int(seed)))
    models = [model, *judges.values()]
    return Needs(judges, (*trained(plan, models), ("freeze", f"recognition/seed{seed}"), *found))


def recognised(plan, seeds, of=""):
    return tuple(("recognise", f"seed{seed}/{model}") for seed, model in plan.recognised(seeds, of))


def recognition_params(plan):
    chosen = plan.project.recognition
    return list(chosen.tests), list(chosen.in_order())


def recognition_cards(plan, seeds, of=""):
    return trained(plan, [model for _, model in plan.recognised(seeds, of) if model != NONE])


def recognition_tables(plan, _):
    params = (plan.project.scale, *recognition_params(plan), plan.abouts(), plan.detection_texts())
    seeds = plan.project.seeds
    return Needs(params, (*recognised(plan, seeds), *recognition_cards(plan, seeds)))


def recognition_figures(plan, _):
    inputs = (*recognised(plan, plan.project.seeds), ("recognition_tables", ""))
    return Needs((*recognition_params(plan), plan.branches()), inputs)


def recognition_seeds(plan, _):
    seeds = plan.fresh_seeds()
    inputs = (*recognised(plan, seeds, of="vrdir"), *recognition_cards(plan, seeds, of="vrdir"))
    return Needs(recognition_tables(plan, "").params, inputs)


# Report


def tables(plan, table):
    inputs = (*scores(plan, table), *trained(plan, plan.table_models(table)))
    return Needs((plan.project.scale, plan.project.tables[table]), inputs)


def figures(plan, table):
    report = plan.project.report.model_dump(include={"zoom", "images_per_test", "models", "protocol"})
    costs = (("complexity", model) for model in plan.table_models(table))
    return Needs(report, (("tables", table), *costs, *tables(plan, table).inputs))


def efficiency(plan, _):
    return Needs(inputs=tuple(("complexity", model) for model in plan.shown_models()))


def published(plan, _):
    return Needs(inputs=(*metrics(plan, "").inputs, *trained(plan, plan.shown_models())))


def metrics(plan, _):
    return Needs(inputs=tuple(("tables", table) for table in plan.project.tables))


def page(plan, _):
    shown, own = plan.project.tables, plan.folder_lists()
    models = [*plan.shown_models(), *plan.recognition_models(), *plan.gallery_models()]
    inputs = [
        *(("tables", table) for table in shown),
        *(("figures", name) for name, table in shown.items() if table.figures),
        *(("efficiency", ""), ("published", ""), *scores(plan, *shown), *trained(plan, models)),
        *(*lists(own), *(("manifest", name.removesuffix(NOLEAK)) for name in own)),
        *((("leakage", ""),) if own else ()),
        *((("features_table", ""),) if plan.feature_models() or plan.retrieval_models() else ()),
        *((("features_figures", ""),) if plan.feature_models() else ()),
        *((("recognition_tables", ""), ("recognition_figures", "")) if plan.project.recognition.models else ()),
        *((("gallery", ""),) if plan.project.gallery.models else ()),
    ]
    return Needs((plan.project.report, plan.project.scale), tuple(inputs))


RULES = {
    "freeze": freeze,
    "freeze_settings": freeze_settings,
    "fetch_dataset": fetch_dataset,
    "make_dataset": make_dataset,
    "manifest": manifest,
    "pairs": pairs,
    "fingerprint": fingerprint,
    "leakage": leakage,
    "remove_leaks": remove_leaks,
    "pack": pack,
    "evaluate": evaluate,
    "complexity": complexity,
    "features_knn": features_knn,
    "features_retrieval": features_retrieval,
    "features_table": features,
    "features_figures": features_knns,
    "show_stages": show_stages,
    "gallery": gallery,
    "recognise": recognise,
    "recognition_tables": recognition_tables,
    "recognition_figures": recognition_figures,
    "recognition_seeds": recognition_seeds,
    "tables": tables,
    "figures": figures,
    "efficiency": efficiency,
    "published": published,
    "metrics": metrics,
    "page": page,
}
