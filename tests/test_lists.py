"""Published list formats are read strictly, choose rows without silent losses, and can be written."""

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
from helpers import ROOT, one_thread
from hypothesis import assume, given
from hypothesis import strategies as st

from airpipe.data.lists import ListedPair, choose, export, read_list
from airpipe.data.pairs import COLUMNS, pair_up, write_pairs
from airpipe.errors import AirpipeError
from airpipe.settings.datasets import NameList, SplitSettings

RAIN = [("rainy/rain-1.png", "gt/norain-1.png"), ("rainy/rain-2.png", "gt/norain-2.png")]


def row(degraded, clean):
    return {**dict.fromkeys(COLUMNS, ""), "crop": "none", "degraded": degraded, "clean": clean, "name": clean}


def rows(*pairs):
    return [row(degraded, clean) for degraded, clean in pairs]


def settings(form="names", **options):
    return NameList(file="list.txt", format=form, **options)


def listed(tmp_path, text, form="names", **options):
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_list(path, settings(form, **options))


def refusal(tmp_path, text, form="names", **options):
    with pytest.raises(AirpipeError) as caught:
        listed(tmp_path, text, form, **options)
    return str(caught.value)


def chosen(pairs, entries):
    return choose(rows(*pairs), entries, Path("list.txt"))


def test_bsd_names_lose_their_a_and_nothing_else_does(tmp_path):
    found = listed(tmp_path, "a247012.jpg\r\n\r\nBSD400/a5096.jpg\n00001.bmp\narch.jpg\na12.png\n./x//y.png\n")
    names = ["247012.jpg", "BSD400/5096.jpg", "00001.bmp", "arch.jpg", "a12.png", "x/y.png"]
    assert found == [ListedPair(name=name) for name in names]


def test_a_bar_stands_behind_the_degraded_file_and_a_comma_behind_the_clean_one(tmp_path):
    pair = ListedPair(degraded="rain/1.png", clean="gt/1.png")
    assert listed(tmp_path, "rain/1.png|gt/1.png\n", "bar") == [pair]
    assert listed(tmp_path, "gt/1.png,rain/1.png\n", "comma") == [pair]
    assert listed(tmp_path, "gt/1.png | rain/1.png\n", "comma") == [pair]


def test_comma_rows_with_one_path_twice_have_no_degraded_file(tmp_path):
    assert listed(tmp_path, "WED/gt/1.bmp,WED/gt/1.bmp\n", "comma") == [ListedPair(clean="WED/gt/1.bmp")]


def test_the_published_reader_of_dsrir_loses_the_first_row(tmp_path):
    text = "".join(f"{n}.png,{n}.png\n" for n in range(5))
    assert len(listed(tmp_path, text, "comma")) == 5
    found = listed(tmp_path, text, "comma", lose_first_row=True)
    assert [one.clean for one in found] == ["1.png", "2.png", "3.png", "4.png"]
    # it takes the row for a header, and loses nothing where there is one
    assert listed(tmp_path, "target,input\n" + text, "comma", lose_first_row=True) == listed(tmp_path, text, "comma")
    assert "lists no files" in refusal(tmp_path, "0.png,0.png\n", "comma", lose_first_row=True)
    assert "lose_first_row is for format comma, found names" in refusal(tmp_path, "0.png", lose_first_row=True)


def test_lines_of_one_data_set_are_read_out_of_a_list_of_several(tmp_path):
    text = "BSD400/1.jpg,BSD400/1.jpg\r\nBSD400/2.jpg,BSD400/2.jpg\r\nWED/gt/1.bmp,WED/gt/1.bmp\r\n"
    found = listed(tmp_path, text, "comma", only="BSD400/")
    assert found == [ListedPair(clean="BSD400/1.jpg"), ListedPair(clean="BSD400/2.jpg")]
    # the row that the published reader loses is the first of the file
    assert len(listed(tmp_path, text, "comma", only="BSD400/", lose_first_row=True)) == 1
    assert len(listed(tmp_path, text, "comma", only="WED/", lose_first_row=True)) == 1
    message = refusal(tmp_path, text, "comma", only="Reside/")
    assert "lists no files that begin with 'Reside/'. Expected lines like: clean,degraded" in message


def test_quoted_lines_are_read_out_of_a_list_of_several_data_sets_as_others_are(tmp_path):
    text = '"WED/gt/a,b.bmp","WED/gt/a,b.bmp"\nWED/gt/1.bmp,WED/gt/1.bmp\nBSD400/1.jpg,BSD400/1.jpg\n'
    found = listed(tmp_path, text, "comma", only="WED/")
    assert [one.clean for one in found] == ["WED/gt/a,b.bmp", "WED/gt/1.bmp"]


def test_a_prefix_is_removed_from_every_path_or_the_line_without_it_is_named(tmp_path):
    found = listed(tmp_path, "/data/x/rain/1.png|/data/x/gt/1.png", "bar", remove_prefix="/data/x/")
    assert found == [ListedPair(degraded="rain/1.png", clean="gt/1.png")]
    message = refusal(tmp_path, "BSD400/1.jpg\nWED/gt/1.bmp\n", remove_prefix="BSD400/")
    assert "line 2: 'WED/gt/1.bmp' does not begin with 'BSD400/'" in message


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("names", "\n \n", "lists no files. Expected lines like: one file name a line"),
        ("names", b"ok.png\n\xff.png\n", "byte 8 is not UTF-8"),
        ("names", "x.png\n/abs/y.png\n", "line 2: '/abs/y.png' is not a path below the data set's folder"),
        ("names", "../y.png\n", "line 1: '../y.png' is not a path below"),
        ("names", "a\\b.png\n", "is not a path below"),
        ("names", "r/1.png|g/1.png\n", "names two files. Expected one; is the format bar?"),
        ("names", "r/1.png,g/1.png\n", "names two files. Expected one; is the format comma?"),
        ("names", "r/1.png\tg/1.png\n", "names two files. Expected one; write them as degraded|clean (format: bar)"),
        ("names", "r/1.png  r/2.png (3,4,3)\n", "names two files. Expected one; write them as degraded|clean"),
        (
            "bar",
            "x.png|y.png\n\nx.png,y.png\n",
            "line 3: 1 paths in 'x.png,y.png'. Expected degraded|clean; is the for",
        ),
        ("bar", "x.png\n", "line 1: 1 paths in 'x.png'. Expected degraded|clean; is the format names?"),
        ("bar", "x.png|y.png|z.png\n", "line 1: 3 paths"),
        ("bar", "x.png|\n", "line 1: 1 paths"),
        ("comma", "x.png|y.png\n", "Expected clean,degraded; is the format bar?"),
        ("comma", "x.png,y.png,z.png\n", "line 1: 3 paths"),
        ("comma", "x" * 200_000 + "\n", "line 1: 1 paths in 'xxx"),
    ],
)
def test_a_wrong_line_is_named_with_what_was_expected(tmp_path, form, text, message):
    assert message in refusal(tmp_path, text, form)


def test_sizes_behind_names_are_passed_over_as_basicsr_writes_them(tmp_path):
    text = "0001.png (64,64,3)\r\na/0002.png (64, 64, 3)\n0003 (480,320)\nwith (1) a.png\n(1,2,3).png\n"
    names = ["0001.png", "a/0002.png", "0003", "with (1) a.png", "(1,2,3).png"]
    assert [one.name for one in listed(tmp_path, text)] == names


@pytest.mark.parametrize("line", ["1.png 1.png", "1.png\t1.png", "1.png,1.png", "1.png | 1.png", "1.png 1.png (3,4,3)"])
def test_a_name_that_stands_in_two_columns_is_one(tmp_path, line):
    assert listed(tmp_path, f"{line}\n") == [ListedPair(name="1.png")]


@pytest.mark.parametrize(("form", "line"), [("comma", "1.png,1.png"), ("bar", "1.png|1.png"), ("names", "1.png 1.png")])
def test_two_equal_columns_mean_the_pair_whose_files_have_one_name(tmp_path, form, line):
    pairs = [("low/1.png", "high/1.png"), ("low/2.png", "high/2.png")]
    assert chosen(pairs, listed(tmp_path, line, form)).rows == chosen(pairs, [ListedPair(name="1.png")]).rows
    assert len(chosen(pairs, listed(tmp_path, line, form)).rows) == 1


def test_a_column_behind_the_name_is_named_where_no_file_is_found(tmp_path):
    entries = listed(tmp_path, "rain-1.png 0.8 7\nrain-2.png 0.9 7\n")
    with pytest.raises(
        AirpipeError, match=r"Next: only the first column .*: remove the one behind it, such as '0.8 7'$"
    ):
        chosen(RAIN, entries)


def test_names_listed_twice_are_counted_and_the_first_ten_named(tmp_path):
    message = refusal(tmp_path, "".join(f"{n}.png\n{n}.png\n" for n in range(100, 112)))
    assert "12 names are listed twice: 100.png, 101.png" in message
    assert "109.png, ..." in message
    assert "110.png" not in message


def test_a_missing_list_is_an_error(tmp_path):
    with pytest.raises(AirpipeError, match="cannot be read"):
        read_list(tmp_path / "none.txt", settings())


def test_rows_come_in_the_order_of_the_list():
    found = chosen(RAIN, [ListedPair(name="rainy/rain-2.png"), ListedPair(name="rain-1.png")])
    assert [one["clean"] for one in found.rows] == ["gt/norain-2.png", "gt/norain-1.png"]
    assert found.repeats == 0


def test_names_mean_degraded_files_first_and_clean_files_where_there_are_none():
    pairs = [("a/1.png", "b/2.png"), ("a/2.png", "b/1.png"), ("", "b/3.png")]
    found = chosen(pairs, [ListedPair(name="1.png"), ListedPair(name="3.png")])
    assert [one["clean"] for one in found.rows] == ["b/2.png", "b/3.png"]
    assert chosen(RAIN, [ListedPair(name="norain-2.png")]).rows[0]["degraded"] == "rainy/rain-2.png"


def test_stems_count_only_where_no_file_has_the_exact_name():
    pairs = [("", "x/1.png"), ("", "x/1.jpg"), ("", "x/0005_0.8_0.2.jpg")]
    found = chosen(pairs, [ListedPair(name="1.jpg"), ListedPair(name="0005_0.8_0.2"), ListedPair(name="1.png")])
    assert [one["clean"] for one in found.rows] == ["x/1.jpg", "x/0005_0.8_0.2.jpg", "x/1.png"]
    assert chosen(pairs[:1], [ListedPair(name="1.bmp")]).rows[0]["clean"] == "x/1.png"
    with pytest.raises(AirpipeError, match=r"1 listed names fit more than one pair: 1\.bmp"):
        chosen(pairs, [ListedPair(name="1.bmp")])


def test_folders_tell_equal_file_names_apart():
    pairs = [("", "root/s1/1.png"), ("", "root/s2/1.png")]
    assert chosen(pairs, [ListedPair(name="s2/1.png")]).rows[0]["clean"] == "root/s2/1.png"
    with pytest.raises(AirpipeError, match="more than one pair"):
        chosen(pairs, [ListedPair(name="1.png")])


def test_both_spellings_of_bsd_files_are_found():
    assert chosen([("", "a12.jpg")], [ListedPair(name="12.jpg")]).rows[0]["clean"] == "a12.jpg"


def test_listed_files_that_are_not_there_are_counted_and_the_first_ten_named():
    entries = [ListedPair(name="rain-1.png"), *(ListedPair(name=f"no-{n}.png") for n in range(10, 22))]
    with pytest.raises(AirpipeError) as caught:
        chosen(RAIN, entries)
    assert "12 of 13 listed are not among the 2 pairs of the split: no-10.png, no-11.png" in str(caught.value)
    assert "no-19.png, ..." in str(caught.value)
    assert "no-20.png" not in str(caught.value)


def test_both_columns_have_to_agree():
    with pytest.raises(AirpipeError, match=r"1 of 1 listed .*rainy/rain-1\.png with gt/norain-2\.png"):
        chosen(RAIN, [ListedPair(degraded="rainy/rain-1.png", clean="gt/norain-2.png")])
    with pytest.raises(AirpipeError, match="not among"):  # the list has it synthesised, the split has it degraded
        chosen(RAIN, [ListedPair(clean="gt/norain-1.png")])


def test_swapped_columns_are_recognised():
    with pytest.raises(AirpipeError, match="columns look swapped"):
        chosen(RAIN, [ListedPair(degraded=clean, clean=degraded) for degraded, clean in RAIN])


HEADER = ListedPair(clean="target", degraded="input")
IN_LIST = [ListedPair(degraded=degraded, clean=clean) for degraded, clean in RAIN]


@pytest.mark.parametrize(
    ("entries", "count", "hints"),
    [
        ([HEADER, *IN_LIST], "1 of 3", ["looks like a header"]),
        ([HEADER, *IN_LIST, ListedPair(clean="gt/x.png")], "2 of 4", ["looks like a header", "complete the folder"]),
        (
            [HEADER, *(ListedPair(degraded=one.clean, clean=one.degraded) for one in IN_LIST)],
            "3 of 3",
            ["looks like a header", "columns look swapped"],
        ),
        ([*IN_LIST, ListedPair(clean="gt/x.png")], "1 of 3", ["complete the folder"]),
    ],
)
def test_a_header_is_named_together_with_what_else_is_wrong(entries, count, hints):
    with pytest.raises(AirpipeError) as caught:
        chosen(RAIN, entries)
    assert f"list.txt: {count} listed are not among the 2 pairs" in str(caught.value)
    known = ["looks like a header", "columns look swapped", "complete the folder"]
    assert [one for one in known if one in str(caught.value)] == hints


PUBLISHED = [
    ("BSD400/100075.jpg", "BSD400/100075.jpg"),
    ("BSD400/100080.jpg", "BSD400/100080.jpg"),
    *[("Rain100L/train/gt/norain-1.png", "Rain100L/train/rainy/rain-1.png")] * 25,
    ("Reside/train/gt/0005.jpg", "Reside/train/hazy/0005_0.85_0.04.jpg"),
    ("Reside/train/gt/0008.jpg", "Reside/train/hazy/0008_1_0.2.jpg"),
]
"""A list of all tasks, as published, of fewer images."""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [",", " | "])
def test_a_published_list_chooses_among_the_files_of_each_data_set(tmp_path, mark, end):
    path = tmp_path / "train_all_in_one.csv"
    path.write_bytes("".join(mark.join(row) + end for row in PUBLISHED).encode())

    def chooses(paths, only, lose_first_row=False, **split):
        names = {"file": str(path), "format": "comma", "only": only, "lose_first_row": lose_first_row}
        pairing = pair_up(paths, SplitSettings(**split, name_list=names), path)
        assert pairing.problems == []
        return [row["degraded"] or row["clean"] for row in pairing.rows], pairing.repeats

    noise = ["images/train/100075.jpg", "images/test/100080.jpg", "images/test/100099.jpg"]
    assert chooses(noise, "BSD400/", clean="images/*/*") == (noise[:2], 0)
    assert chooses(noise, "BSD400/", lose_first_row=True, clean="images/*/*") == (noise[1:2], 0)
    rain = ["gt/norain-1.png", "gt/norain-2.png", "rainy/rain-1.png", "rainy/rain-2.png"]
    folders = {"clean": "gt/*", "degraded": "rainy/*", "rule": "no_prefix"}
    assert chooses(rain, "Rain100L/", lose_first_row=True, **folders) == (["rainy/rain-1.png"], 24)
    haze = [f"synthetic/part{n % 4 + 1}/{n:04}_{a}_{b}.jpg" for n in (5, 8) for a in (0.85, 1) for b in (0.04, 0.2)]
    clean = ["original/0005.jpg", "original/0008.jpg"]
    assert chooses([*haze, *clean], "Reside/", clean="original/*", degraded="synthetic/part*/*", rule="haze_id") == (
        ["synthetic/part2/0005_0.85_0.04.jpg", "synthetic/part1/0008_1_0.2.jpg"],
        0,
    )


def test_a_list_that_repeats_its_rows_25_times_gives_each_pair_once():
    entries = [ListedPair(degraded=degraded, clean=clean) for degraded, clean in RAIN] * 25
    found = chosen(RAIN, entries)
    assert found.rows == rows(*RAIN)
    assert found.repeats == 48


def test_two_names_of_one_file_are_an_error():
    with pytest.raises(AirpipeError, match=r"mean the same file: x/1\.png"):
        chosen([("", "x/1.png")], [ListedPair(name="1.png"), ListedPair(name="1.jpg")])


NAME = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=12)
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join)


@pytest.mark.parametrize("form", ["names", "bar", "comma"])
@given(pairs=st.lists(st.tuples(PATH, PATH), min_size=1, max_size=4, unique_by=lambda pair: pair[0]))
def test_what_is_written_is_read_again_or_refused(tmp_path_factory, form, pairs):
    paths = [path for pair in pairs for path in pair]
    assume(all(str(PurePosixPath(path)) == path and path != "." and ".." not in path.split("/") for path in paths))
    assume(all(degraded != clean for degraded, clean in pairs))
    try:
        text = export(rows(*pairs), form)
    except AirpipeError as error:
        assert "cannot hold this name" in str(error)
        assert any(not p.isprintable() or p != p.strip() or set(p) & set("\\|,") for p in paths)
        return
    found = listed(tmp_path_factory.getbasetemp(), text, form)
    if form == "names":
        assert [one.name for one in found] == [degraded for degraded, _ in pairs]
    else:
        assert [(one.degraded, one.clean) for one in found] == pairs


def test_each_format_is_written_as_its_code_reads_it():
    noise = rows(("", "BSD400/247012.jpg"), ("", "WED/gt/00001.bmp"))
    assert export(noise, "names", bsd_prefix=True, file_names=True) == "a247012.jpg\n00001.bmp\n"
    assert export(noise, "names") == "BSD400/247012.jpg\nWED/gt/00001.bmp\n"
    assert export(noise[:1], "comma") == "BSD400/247012.jpg,BSD400/247012.jpg\n"
    rain = rows(*RAIN[:1])
    assert export(rain, "names") == "rainy/rain-1.png\n"
    assert export(rain, "bar", prefix="R/") == "R/rainy/rain-1.png|R/gt/norain-1.png\n"
    assert export(rain, "comma") == "gt/norain-1.png,rainy/rain-1.png\n"


def test_lists_that_a_format_cannot_hold_are_refused():
    with pytest.raises(AirpipeError, match="has no degraded file, and a bar list needs one"):
        export(rows(("", "x.png")), "bar")
    with pytest.raises(AirpipeError, match="cannot hold this name"):
        export(rows(("x|.png", "y.png")), "bar")
    with pytest.raises(AirpipeError, match="for format names"):
        export(rows(*RAIN), "bar", bsd_prefix=True)
    with pytest.raises(AirpipeError, match="nothing to export"):
        export([], "names")


def test_the_script_writes_a_list(tmp_path):
    write_pairs(tmp_path / "rain.train.csv", rows(*RAIN), {})
    output = tmp_path / "list.txt"
    command = [sys.executable, ROOT / "scripts" / "export_pairs.py", tmp_path / "rain.train.csv", "--as", "bar"]
    command += ["--prefix", "x/", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread())
    assert "2 lines" in done.stdout
    assert output.read_text() == "".join(f"x/{degraded}|x/{clean}\n" for degraded, clean in RAIN)
