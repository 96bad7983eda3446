# Where the files of data sets lie on this machine, as inputs and arguments of the data rules.


def data_threads(wildcards):
    """Threads that read a data set: embedded and drawn ones are small, and a second core would be waited for."""
    return 1 if PLAN.dataset(wildcards.dataset).embedded else 2


def fetched(wildcards):
    """File that says that a data set is here, however it came: always the same one, so that a move redoes nothing."""
    entry = PLAN.dataset(wildcards.dataset)
    if entry.made:
        return [f"results/generated/{wildcards.dataset}.json"]
    return [] if entry.packages else [ancient(f"results/fetched/{wildcards.dataset}.json")]


def fetch_command(wildcards, input):
    """Command that brings a data set here; there is nothing to do for a folder that the user has."""
    name = wildcards.dataset
    facts = f"results/fetched/{name}.json"
    if PLAN.dataset(name).root or os.path.isdir(f"resources/datasets/{name}"):
        return f"echo '{{}}' > {facts}"
    words = ["python", "scripts/fetch_dataset.py", name, "--entry", input.entry]
    words += ["--folder", f"resources/datasets/{name}", "--downloads", f"resources/downloads/{name}"]
    words += ["--lock", "config/datasets.lock.yaml"]
    if sys.stdin.isatty() and sys.stderr.isatty():  # somebody is there to drop in files that are fetched by hand
        words += ["--wait", "60"]
    return f"{shlex.join(words)} && cp resources/datasets/{name}.fetched.json {facts}"


def made_from(wildcards):
    """File that says that the data set is here that a made one is cut out of; none for drawn ones."""
    source = PLAN.made_from(wildcards.dataset)
    return [ancient(f"results/fetched/{source}.json")] if source else []


def source_argument(wildcards):
    """Argument that says where the data set lies that a made one is cut out of."""
    source = PLAN.made_from(wildcards.dataset)
    return shlex.join(["--source", PROJECT.root(source)]) if source else ""


def list_name(wildcards):
    """Name of the pair list of a job."""
    return f"{wildcards.dataset}.{wildcards.split}"


def name_list(pairs):
    """Argument that says where the split's name list lies."""
    file = PLAN.list_file(pairs)
    return shlex.join(["--name-list", file]) if file else ""


def list_sha256(wildcards):
    """Checksum of the split's name list, for params: what stands in it counts, where it lies changes nothing."""
    file = PLAN.list_file(list_name(wildcards))
    return [sha256_file(Path(file))] if file and os.path.isfile(file) else []


def places(pairs):
    """Arguments that say where the files of a split lie on this machine."""
    root = PROJECT.root(pairs.split(".")[0])
    return " ".join(filter(None, [shlex.join(["--root", root]) if root else "", name_list(pairs)]))


def splits_in_use():
    """Pair lists in use, each once, without those that leave out leaks."""
    return sorted({name.removesuffix("_noleak") for name in PLAN.checked_lists()})


def check_commands(threads):
    """Commands that check the files of every split in use again; the last one tells whether one failed."""
    for name in splits_in_use():
        entry, manifest = f"results/frozen/splits/{name}.yaml", f"results/manifests/{name}.csv"
        words = f"--entry {entry} {places(name)} --output {manifest} --threads {threads}"
        yield f"python scripts/check_dataset.py {name} {words} || failed=1"


def fingerprints(names):
    """Fingerprint files of pair lists."""
    return [f"results/fingerprints/{name}.csv" for name in names]


def list_memory(rule):
    """Resource function: memory of a job of a rule, by the size of the lists that it reads."""

    def asked(wildcards, input):
        return list_memory_mb(rule, sum(os.path.getsize(file) for file in input if os.path.isfile(file)) / 1e6)

    return asked


def manifest_memory(wildcards, attempt):
    """Memory of a check, by the number of pairs that the data set's entry expects."""
    split = PLAN.dataset(wildcards.dataset).splits.get(wildcards.split)
    return check_memory_mb(split and split.expected, attempt)
