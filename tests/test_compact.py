"""Long lists take little more memory than their files, and read like lists of objects."""

import csv
import pickle
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT

from airpipe.data.compact import Chosen, compact_texts, read_table
from airpipe.data.fingerprints import read_fingerprints
from airpipe.data.manifest import FileFacts, file_sizes, read_manifest
from airpipe.data.pack_contents import AS_BYTES
from airpipe.data.packs import PAIR
from airpipe.data.pairs import COLUMNS, Pair, read_facts, read_pairs, read_rows, write_pairs
from airpipe.errors import AirpipeError
from airpipe.plan.memory import TIMES, check_memory_mb, list_memory_mb

ODD = ['a,"b".png', "two\r\nlines\n\n.png", "", "äβ\u2028\U0001f40b", " space "]


def written(path: Path, rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return path


def as_objects(path: Path) -> list[dict[str, str]]:
    """The rows as they were read before: all of them as dictionaries."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def pair_list(folder: Path, count: int) -> Path:
    rows = [
        dict(zip(COLUMNS, (f"hazy/{n:07}_1.png", f"clean/{n:07}.png", "haze", "0.8", "none", f"{n:07}_1", f"{n:07}"),
                 strict=True))
        for n in range(count)
    ]  # fmt: skip
    path = folder / "toy.train.csv"
    write_pairs(path, rows, {"classes": {"0000002_1": "bird"}})
    return path


def test_rows_are_those_of_the_csv_reader_whatever_stands_in_them(tmp_path):
    table = [["name", "path"], *([one, other] for one in ODD for other in ODD)]
    path = written(tmp_path / "t.csv", table)
    path.write_bytes(path.read_bytes() + b"\r\n\r\nlast,row")
    header, rows = read_table(path, "Again")
    assert (header, len(rows)) == (["name", "path"], 26)
    assert list(rows) == [*table[1:], ["last", "row"]]
    assert [rows[number] for number in range(-26, 26)] == 2 * [*table[1:], ["last", "row"]]
    assert rows[20:26:2] == [*table[21:26:2]]
    with pytest.raises(IndexError):
        rows[26]
    assert [dict(zip(header, row, strict=True)) for row in rows] == as_objects(path)


def test_an_empty_file_has_no_header_and_a_header_alone_has_no_rows(tmp_path):
    (tmp_path / "empty.csv").touch()
    assert read_table(tmp_path / "empty.csv", "Again")[0] == []
    header, rows = read_table(written(tmp_path / "t.csv", [["name", "path"]]), "Again")
    assert header == ["name", "path"] and list(rows) == [] and not rows


def test_a_row_cut_off_is_told_with_its_line(tmp_path):
    path = pair_list(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(AirpipeError, match=r"toy\.train\.csv: line 4 has 3 fields; expected 7\. Make it"):
        read_rows(path)


def test_pairs_are_made_one_by_one_and_equal_those_made_at_once(tmp_path):
    path = pair_list(tmp_path, 5)
    pairs = read_pairs(path, tmp_path)
    expected = [
        Pair(
            clean=tmp_path / row["clean"], degraded=tmp_path / row["degraded"],
            **{key: row[key] for key in ("degradation", "level", "crop", "name", "group")},
            category="bird" if number == 2 else "",
        )
        for number, row in enumerate(as_objects(path))
    ]  # fmt: skip
    assert list(pairs) == list(pickle.loads(pickle.dumps(pairs))) == expected  # noqa: S301 - our own
    assert pairs[-1] == expected[-1] and pairs[1:3] == expected[1:3]


def test_a_long_list_takes_an_eighth_of_the_memory_of_its_objects(tmp_path):
    path = pair_list(tmp_path, 4000)
    held = []
    for read in (lambda: read_pairs(path, tmp_path), lambda: list(read_pairs(path, tmp_path))):
        tracemalloc.start()
        pairs = read()
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert len(pairs) == 4000
    assert held[0] < path.stat().st_size + 4000 * 12 + 20_000
    assert 8 * held[0] < held[1]


def test_a_manifest_is_read_back_and_equal_sizes_are_kept_once(tmp_path):
    facts = [FileFacts(name, 10 + n, "ab", 300 + n % 2, 400) for n, name in enumerate(ODD)]
    rows = [[one.path, one.bytes, one.sha256, one.width, one.height] for one in facts]
    path = written(tmp_path / "m.csv", [["path", "bytes", "sha256", "width", "height"], *rows])
    assert list(read_manifest(path)) == facts
    sizes = file_sizes(read_manifest(path))
    assert list(sizes) == ODD and sizes[ODD[1]] == (301, 400)
    assert len({id(size) for size in sizes.values()}) == 2
    path.write_text(path.read_text().replace("300,400", "wide,400", 1))
    with pytest.raises(AirpipeError, match=r"not a manifest \(invalid literal .*'wide'"):
        read_manifest(path)


def test_chosen_members_are_those_of_the_whole():
    texts = compact_texts(ODD)
    assert list(texts) == ODD and pickle.loads(pickle.dumps(texts))[3] == ODD[3]  # noqa: S301 - our own
    some = Chosen(texts, (n for n in (4, 0, 3)))
    assert (list(some), len(some), some[-1], some[:2]) == ([ODD[4], ODD[0], ODD[3]], 3, ODD[3], [ODD[4], ODD[0]])


def test_pairs_of_packs_are_packed_as_numpy_does():
    values = (7, 2**32 - 1, 2, 2**40, 99)
    assert AS_BYTES.pack(*values) == np.array([values], PAIR).tobytes()


def test_rows_without_leaks_keep_their_facts(tmp_path):
    path = pair_list(tmp_path, 6)
    write_pairs(tmp_path / "kept.csv", Chosen(read_rows(path), (1, 4)), read_facts(path))
    assert as_objects(tmp_path / "kept.csv") == [as_objects(path)[number] for number in (1, 4)]


def test_fingerprints_of_a_long_list_take_few_bytes(tmp_path):
    digits = "0123456789abcdef" * 4
    rows = [[f"n{n}", f"clean/{n:07}.png", digits, digits, f"{n:016x}", 640, 480] for n in range(4000)]
    header = ["name", "path", "bytes_sha256", "pixels_sha256", "phash", "width", "height"]
    path = written(tmp_path / "a.train.csv", [header, *rows])
    tracemalloc.start()
    table = read_fingerprints(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 4000 * 190 and peak < 4000 * 260  # two digests of 64, a hash of 8, a path of 17 and its place of 12
    assert (table.paths[3999], int(table.phash[17]), table.bytes_sha256[5].decode()) == (
        "clean/0003999.png",
        17,
        digits,
    )


def test_jobs_on_lists_ask_for_memory_by_their_length():
    text = (ROOT / "workflow/rules/datasets.smk").read_text()
    assert sorted(TIMES) == sorted(re.findall(r'mem_mb=list_memory\("(\w+)"\)', text))
    assert all(f"rule {name}:" in text for name in TIMES)
    assert {list_memory_mb(name, 0) for name in TIMES} == {2000}
    assert list_memory_mb("pairs", 1000) - list_memory_mb("pairs", 500) == 500 * TIMES["pairs"]
    assert (check_memory_mb(None, 1), check_memory_mb(100, 3), check_memory_mb(2_000_000, 1)) == (2000, 6000, 6400)
