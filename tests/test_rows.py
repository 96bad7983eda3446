"""Csv files are read in one way: long fields come whole, damage is told by file and line in one line."""

import csv
import math
import re
from pathlib import Path

import pytest
from helpers import ROOT

from airpipe.curation.scoring import read_scores
from airpipe.data.duplicates import read_leaks
from airpipe.data.fingerprints import read_fingerprints
from airpipe.data.manifest import Journal, read_manifest
from airpipe.data.pack_contents import read_contents
from airpipe.data.pairs import COLUMNS
from airpipe.data.pairs import read_rows as read_pair_list
from airpipe.errors import AirpipeError
from airpipe.reporting.frames import text_frame
from airpipe.reporting.published import read_published
from airpipe.reporting.scenes import read_psnr
from airpipe.reporting.table import read_frame
from airpipe.rows import read_csv, read_journal, read_records

HEADER = ",".join(COLUMNS)


def test_a_field_that_is_longer_than_python_allows_comes_whole(tmp_path):
    (tmp_path / "a.csv").write_text(f"name,patches\nfirst,{'0.25 ' * 100_000}\nsecond,\n")
    first, second = read_records(tmp_path / "a.csv", "")
    assert len(first["patches"]) == 500_000 and second == {"name": "second", "patches": ""}


@pytest.fixture
def short_fields():
    """Fields of 10,000 characters at most."""
    before = csv.field_size_limit(10_000)
    yield
    csv.field_size_limit(before)


def test_a_quote_that_is_never_closed_is_told_by_its_line(tmp_path, short_fields):
    (tmp_path / "a.csv").write_text('a,b\n1,2\n3,"' + ("x" * 79 + "\n") * 200)
    rows = read_csv(tmp_path / "a.csv", "Make it again")
    assert [next(rows), next(rows)] == [(1, ["a", "b"]), (2, ["1", "2"])]
    with pytest.raises(AirpipeError, match=r"a.csv: cannot be read behind line 2 \(field larger .*10000.* Make it"):
        next(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "a.csv: columns []; expected ['a', 'b']. Make it again"),
        (b"a,c\n", "a.csv: columns ['a', 'c']; expected ['a', 'b']. Make it again"),
        (b"a,b\n1,2\n\n3\n", "a.csv: line 4 has 1 fields; expected 2. Make it again"),
        (b"a,b\n1,2,3\n", "a.csv: line 2 has 3 fields; expected 2. Make it again"),
        (b'a,b\n1,2\n1,"2\n3,4\n', "a.csv: cannot be read behind line 2 (unexpected end of data). Make it again"),
        (b"a,b\n" + b"1,2\n" * 9999 + b"\xff,2\n", "a.csv: line 10001 is not UTF-8. Make it again"),
        (None, "a.csv: cannot be read (No such file or directory). Make it again"),
    ],
)
def test_damage_is_one_line_that_names_file_and_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(AirpipeError, match=re.escape(message)) as told:
        list(read_records(tmp_path / "a.csv", "Make it again", ("a", "b")))
    assert "\n" not in str(told.value) and len(str(told.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("read", "header"),
    [
        (read_pair_list, HEADER),
        (lambda path: read_contents(path, path), HEADER),
        (read_manifest, "path,bytes,sha256,width,height"),
        (read_fingerprints, "name,path,bytes_sha256,pixels_sha256,phash,width,height"),
        (read_leaks, "train_list,train_path,test_list,test_path,relation,distance,correlation"),
        (lambda path: list(read_scores([path])), "line,member,source,path,name,niqe"),
        (lambda path: read_published([path]), "method,backbone"),
    ],
)
def test_every_reader_tells_bytes_that_are_no_text_in_one_line(tmp_path, read, header):
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "a.csv").write_bytes(header.encode() + b"\n\xff\n")
    with pytest.raises(AirpipeError, match=r"a\.csv: line 2 is not UTF-8") as told:
        read(tmp_path / "a.csv")
    assert "\n" not in str(told.value)


def test_a_journal_goes_on_behind_what_a_power_cut_left(tmp_path, short_fields):
    good = "1.2,a.png,3,,4,5,,,.\n"
    (tmp_path / "journal").write_bytes(good.encode() + b"\0" * 50_000 + b"\xff\n" + b'"' + b"x" * 20_000 + b'"\n')
    with (tmp_path / "journal").open("a") as stream:
        stream.write(good.replace("a.png", "b.png"))
    names = [row[1] for row in read_journal(tmp_path / "journal") if len(row) == 9]
    assert names == ["a.png", "b.png"]
    assert len(Journal(tmp_path / "journal")._known) == 2
    assert list(read_journal(tmp_path / "none")) == []
    assert list(read_journal(Path("/dev/full"))) == []  # which never ends


def test_no_module_reads_csv_files_in_its_own_way():
    own = re.compile(r"\b(csv\.(reader|DictReader)|pd\.read_csv)\(")
    found = [path.name for path in (ROOT / "src").rglob("*.py") if own.search(path.read_text(encoding="utf-8"))]
    assert sorted(found) == ["rows.py"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"\xff", "line 1 is not UTF-8"),
        (b"", "columns []; expected one or more, each once"),
        (b"model,model\n1,2\n", "columns ['model', 'model']; expected one or more, each once"),
        (b'metric,value\npsnr,"2', "cannot be read behind line 1 (unexpected end of data)"),
        (b"model,metric,value\nm,psnr,20,7\n", "line 2 has 4 fields; expected 3"),
        (b"model,metric,value\nm,psnr,20\nm,ps", "line 3 has 2 fields; expected 3"),
    ],
)
def test_frames_that_cannot_be_read_are_told_in_one_line(tmp_path, text, words):
    if text is not None:
        (tmp_path / "a.csv").write_bytes(text)
    for read in (text_frame, read_frame, lambda path: read_psnr(path, "")):
        with pytest.raises(AirpipeError, match=re.escape(f"a.csv: {words}. ")) as told:
            read(tmp_path / "a.csv")
        remedy = (
            "score again: snakemake all -R evaluate" if read not in (text_frame, read_frame) else "snakemake --force"
        )
        assert "\n" not in str(told.value) and remedy in str(told.value)


def test_a_word_in_a_column_of_numbers_is_told_with_its_row(tmp_path):
    (tmp_path / "a.csv").write_text("metric,value\npsnr,\npsnr,inf\npsnr,nan\npsnr,2x\n")
    with pytest.raises(AirpipeError, match=r"a\.csv: row 4: value '2x' is not a number. Make it again: snakemake --fo"):
        read_frame(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("metric,value\npsnr,\npsnr,inf\npsnr,-2.5\n")
    assert read_frame(tmp_path / "a.csv")["value"].tolist() == pytest.approx([math.nan, math.inf, -2.5], nan_ok=True)
