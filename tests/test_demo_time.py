"""`benchmarks.demo`: where the time of a run went, from Snakemake's measurements."""

import os
from pathlib import Path

import pytest

from airpipe.errors import AirpipeError
from benchmarks.demo import Job, idle_share, read_jobs, report, spent

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def measured(folder: Path, name: str, end: float, seconds: float, cpu: str) -> None:
    path = folder / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEAD}{seconds}\t0:00:00\t1\t1\t1\t1\t1\t1\t1\t{cpu}\n")
    os.utime(path, (end, end))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    measured(tmp_path, "baseline/nafnet_5d/seed0/train", 110, 10, "9.0")
    measured(tmp_path, "evaluate/allinone/dsrir/noise/seed0/train", 120, 5, "4.0")
    measured(tmp_path, "evaluate/allinone/none", 106, 6, "NA")
    measured(tmp_path, "page", 123, 3, "2.5")
    return tmp_path


def test_jobs_are_told_apart_by_kind_and_method(folder: Path) -> None:
    jobs = read_jobs(folder)
    assert [(job.kind, job.method, job.start, job.end, job.cpu_s) for job in jobs] == [
        ("training", "baseline", 100, 110, 9.0),
        ("evaluate", "dsrir", 115, 120, 4.0),
        ("evaluate", "shared", 100, 106, 0.0),
        ("page", "shared", 120, 123, 2.5),
    ]
    assert spent(jobs, "kind").to_dict("index") == {
        "evaluate": {"jobs": 2, "core_s": 11.0, "cpu_s": 4.0},
        "training": {"jobs": 1, "core_s": 10.0, "cpu_s": 9.0},
        "page": {"jobs": 1, "core_s": 3.0, "cpu_s": 2.5},
    }


def test_a_core_is_idle_while_no_job_runs_on_it(folder: Path) -> None:
    jobs = read_jobs(folder)  # 23 s of 2 cores: 24 core-seconds of work
    assert idle_share(jobs, 2) == pytest.approx(22 / 46)
    assert idle_share(jobs, 1) == pytest.approx(5 / 23)  # two jobs on one core: no debt
    assert idle_share([Job("a", "b", 0, 4, 1)], 1) == 0
    text = report(jobs, 2)
    assert text.startswith("4 measured jobs in 23 s; 2 cores, idle 47.8% of it")
    assert text.splitlines()[-3].split() == ["baseline", "1", "10.0", "9.0", "5.0"]


def test_a_folder_without_measurements_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(AirpipeError, match=r"no measurement of a job .*make demo"):
        read_jobs(tmp_path)
