"""What CI asks of Snakemake's own report: everything that people read, as it is now, with its caption."""

import re
import runpy
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT

from airpipe.errors import AirpipeError

FILES = ("tables/one.csv", "figures/one/bars.png", "report/index.html")
CAPTIONS = {"table": "Scores of table ``{{ snakemake.wildcards.table }}``.", "page": "All of it in one file."}


def check(
    folder: Path, monkeypatch, held=FILES, shown=("Scores of table <b>one</b>", "All of it in one file.")
) -> None:
    """Make results, captions and a report of some of them, and check the report."""
    for name in (*FILES, "tables/one_gains.csv"):
        (folder / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "results" / name).write_text(name)
    for name, text in CAPTIONS.items():
        (folder / f"{name}.rst").write_text(text)
    with zipfile.ZipFile(folder / "mine.zip", "w") as report:
        report.writestr("mine/report.html", "".join(shown))
        for name in held:
            report.write(folder / "results" / name, f"mine/data/raw/0/{Path(name).name}")
    given = [str(folder / "mine.zip"), "--results", str(folder / "results"), "--captions", str(folder)]
    monkeypatch.setattr(sys, "argv", ["check_report.py", *given])
    runpy.run_path(str(ROOT / "scripts/check_report.py"))["main"]()


def test_a_complete_report_passes(tmp_path, monkeypatch, capsys):
    check(tmp_path, monkeypatch)
    assert capsys.readouterr().out.endswith("mine.zip: 3 results, 2 captions\n")


def test_a_report_without_a_figure_or_a_caption_is_refused(tmp_path, monkeypatch):
    with pytest.raises(AirpipeError, match=r"mine.zip: lacks 1 of 3 results: .*figures/one/bars.png"):
        check(tmp_path, monkeypatch, held=FILES[::2])
    with pytest.raises(AirpipeError, match=r"mine.zip: shows no caption of page.rst"):
        check(tmp_path, monkeypatch, shown=["Scores of table <b>one</b>"])


def test_every_caption_is_used_and_every_used_one_is_there():
    text = "".join(path.read_text() for path in (ROOT / "workflow").rglob("*") if path.is_file())
    used = set(re.findall(r"report/(\w+\.rst)\"", text))
    assert used == {path.name for path in (ROOT / "workflow/report").glob("*.rst")} and len(used) == 17
