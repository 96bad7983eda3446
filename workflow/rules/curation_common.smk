# Curated data sets, as inputs and arguments of their rules.

CURATED = PLAN.curated_sets()


def picture_sources(wildcards):
    """Arguments that say where the pictures of a curation lie on this machine."""
    sources = PLAN.picture_sources(wildcards.curated)
    return " ".join(shlex.join(["--source", f"{name}={kind}:{folder}"]) for name, (kind, folder) in sources.items())


def opened_sources(wildcards):
    """The same, and how fast addresses may be asked."""
    return f"{picture_sources(wildcards)} --per-second {PLAN.curation(wildcards.curated).fetch.per_second}"


def address_lists(wildcards):
    """Files of addresses; one that changed is listed anew."""
    return [folder for kind, folder in PLAN.picture_sources(wildcards.curated).values() if kind == "urls"]


def shard_files(wildcards):
    """Scores of all shards of a curation."""
    shards = numbered(PLAN.curation(wildcards.curated).shards)
    return [f"results/curation/{wildcards.curated}/scores/{name}.csv" for name in shards]


def part_files(wildcards):
    """Facts of all packs of a curation."""
    parts = numbered(PLAN.curation(wildcards.curated).parts)
    return [f"results/curation/{wildcards.curated}/parts/{name}.json" for name in parts]


def tar_files(name):
    """Tar files of all parts of a curation."""
    return [f"results/curation/{name}/tars/{part}.tar" for part in numbered(PLAN.curation(name).parts)]
