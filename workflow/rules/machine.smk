# The machine that runs Snakemake: threads, interpreter, other runs in this folder, disks.
import os
import shlex
import shutil
import sys
from pathlib import Path

from airpipe.data.locks import join_runs
from airpipe.provenance import TEMPORARY, full_disks
from airpipe.resident import KEPT
from snakemake.exceptions import WorkflowError

# Threads that wait for each other spin only briefly: an idle machine loses nothing, a shared one
# does not stall (measured: docs/measurements.md).
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# Jobs keep the memory that tensors free: some take half of the time, and twice the memory (measured:
# docs/measurements.md). MALLOC_MMAP_MAX_=65536 in your environment takes it back; without glibc it means nothing.
os.environ.update(KEPT | os.environ)

# Jobs run this checkout's package, also in environments that Snakemake makes (--sdm conda).
package = os.path.join(os.path.dirname(workflow.basedir), "src")
os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])))

# Snakemake writes the interpreter's path unquoted into the commands of `script:` rules and of cluster jobs; the name
# is found on PATH, as by every other rule.
if shlex.quote(sys.executable) != sys.executable:
    sys.executable = "python"

if os.path.exists("results") and not (os.path.isdir("results") and os.access("results", os.W_OK | os.X_OK)):
    raise WorkflowError(
        "results/ is not a folder that this user can write to; free the name, or link it to a disk with space (DVC"
        " takes no linked results/: `airpipe doctor` says what does for both)"
    )

# A killed run leaves Snakemake's locks behind, which would refuse the next one.
if workflow.is_main_process and join_runs(Path(".snakemake")):
    print("Removed the locks of a Snakemake that died on this host", file=sys.stderr)


onstart:
    if workflow.local_exec:
        # Snakemake's limit on starts a second is for schedulers. Here it would only make each job that ends start another
        # loop that looks once a second for jobs to start, until the run is over (snakemake 9.27, JobScheduler.schedule).
        workflow.scheduler.job_rate_limiter = None
    if full := full_disks([TEMPORARY], 1e6):  # Snakemake's scheduler writes there, and ends without a word of ours
        raise WorkflowError(full)
    if workflow.executor_plugin.name == "slurm" and shutil.which("sbatch") is None:
        raise WorkflowError(
            "--profile slurm submits jobs with sbatch, and this machine has no sbatch on its PATH. Run on a login"
            " node of the cluster, or without --profile slurm to use this machine; `airpipe doctor` tells more"
        )
    wide = {job.rule.name for job in workflow.dag.needrun_jobs() if job.resources.get("mpi") == "srun"}
    if wide and shutil.which("srun") is None:
        raise WorkflowError(
            f"{', '.join(sorted(wide))} asks for several nodes (compute: nodes), which srun starts, and this machine has"
            " no srun on its PATH. Set nodes: 1 (gpu: counts the GPUs of a node), or run where Slurm is"
        )


onerror:
    if full := full_disks(["results", ".snakemake", TEMPORARY]):
        print(full, file=sys.stderr)
