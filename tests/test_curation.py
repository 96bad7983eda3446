"""Curation: what is listed, scored, chosen and packed; damaged input is recorded, kills and shards change no bit."""

import codecs
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from curated import CHOOSING, SETTINGS, bodies, encoded, photographs, rows_of, save, save_photographs, score, table
from helpers import ROOT, one_thread
from web import Page, Web

from airpipe.curation import listing, polite, scoring
from airpipe.curation.choosing import CHOSEN, choose, exact_quantiles, twins
from airpipe.curation.listing import Line, parse_sources, read_facts, read_lines, write_listing
from airpipe.curation.opening import Opener, open_picture
from airpipe.curation.packing import join_parts, pack_part, read_part, tar_part
from airpipe.curation.polite import Fetcher
from airpipe.curation.scoring import read_scores
from airpipe.curation.spoiling import KINDS, make_bad_pictures
from airpipe.data.packs import JoinedPacks, Pack, usable_packs
from airpipe.data.sizes import refuse_small
from airpipe.data.transfer import Patience
from airpipe.data.windows import Window
from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file
from airpipe.reporting.curation import write_report
from airpipe.settings.curation import Bound, Choosing, MadeCurated, PictureScoring, numbered, place_of
from airpipe.settings.stages import DataPart
from airpipe.training.run import PairLists

# Listing


def test_a_list_holds_every_picture_of_a_folder_in_order_and_no_other_file(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a.webp", "c/d/e/3.tif", "b/notes.txt", "b/._1.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    facts = write_listing({"mine": ("images", str(tmp_path / "in"))}, tmp_path / "out" / "listing.tsv")
    lines = list(read_lines(tmp_path / "out" / "listing.tsv", 0, 4))
    assert [line.path for line in lines] == ["a.webp", "b/1.JPG", "b/2.png", "c/d/e/3.tif"]
    assert [line.number for line in lines] == [0, 1, 2, 3] and {line.source for line in lines} == {"mine"}
    assert facts["entries"] == 4 and facts["left_out"] == 0


def test_names_that_are_not_utf8_repeated_ones_and_control_characters_are_left_out_and_recorded(tmp_path):
    (tmp_path / "in").mkdir()
    for name in (b"good.png", b"bad\xff.png", b"tab\there.png"):
        (tmp_path / "in" / os.fsdecode(name)).touch()
    addresses = tmp_path / "addresses.txt"
    addresses.write_bytes(b"http://h/1.jpg\n\nhttp://h/2.jpg\nhttp://h/1.jpg\nhttp://h/\xff.jpg\n http://h/2.jpg \n")
    sources = {"in": ("images", str(tmp_path / "in")), "web": ("urls", str(addresses))}
    facts = write_listing(sources, tmp_path / "listing.tsv")
    assert (tmp_path / "listing.tsv").read_text() == "in\tgood.png\nweb\thttp://h/1.jpg\nweb\thttp://h/2.jpg\n"
    found = [(row["source"], row["path"], row["reason"]) for row in table(tmp_path / "listing.left_out.csv")]
    assert found == [
        ("in", r"bad\udcff.png", "not UTF-8"),
        ("in", r"tab\there.png", "has a control character"),
        ("web", r"http://h/\udcff.jpg", "not UTF-8"),
        ("web", "http://h/1.jpg", "listed before"),
        ("web", "http://h/2.jpg", "listed before"),
    ]
    assert facts["entries"] == 3 and facts["left_out"] == 5


def test_any_stretch_of_a_list_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "STEP", 3)
    addresses = tmp_path / "addresses.txt"
    addresses.write_text("".join(f"http://h/{number % 9}{number}.jpg\n" for number in range(20)) + "http://h/00.jpg\n")
    write_listing({"web": ("urls", str(addresses))}, tmp_path / "listing.tsv")
    whole = list(read_lines(tmp_path / "listing.tsv", 0, 20))
    assert [line.path for line in whole] == addresses.read_text().split()[:20]
    for first, end in ((0, 1), (2, 7), (3, 4), (19, 20)):
        assert list(read_lines(tmp_path / "listing.tsv", first, end)) == whole[first:end]
    with pytest.raises(AirpipeError, match="line 20 is missing"):
        list(read_lines(tmp_path / "listing.tsv", 0, 21))


def test_sources_that_are_missing_empty_or_mistyped_are_told(tmp_path):
    with pytest.raises(AirpipeError, match="nowhere: is not a folder"):
        write_listing({"mine": ("images", str(tmp_path / "nowhere"))}, tmp_path / "listing.tsv")
    with pytest.raises(AirpipeError, match=r"source mine: .* holds no tar files"):
        write_listing({"mine": ("tars", str(tmp_path))}, tmp_path / "listing.tsv")
    with pytest.raises(AirpipeError, match=r"nowhere.txt: cannot be read"):
        write_listing({"mine": ("urls", str(tmp_path / "nowhere.txt"))}, tmp_path / "listing.tsv")
    with pytest.raises(AirpipeError, match="--source mine=here: expected name=kind:place"):
        parse_sources(["mine=here"])
    with pytest.raises(AirpipeError, match="not a whole list"):
        read_facts(tmp_path / "listing.tsv")


def test_a_list_that_is_made_again_is_not_whole_until_it_is_done(tmp_path, monkeypatch):
    save_photographs(tmp_path / "in")
    sources = {"in": ("images", str(tmp_path / "in"))}
    write_listing(sources, tmp_path / "listing.tsv")
    monkeypatch.setattr(listing, "_copy", lambda *_: 1 / 0)  # killed
    with pytest.raises(ZeroDivisionError):
        write_listing(sources, tmp_path / "listing.tsv")
    with pytest.raises(AirpipeError, match="not a whole list"):
        read_facts(tmp_path / "listing.tsv")


def test_what_a_killed_listing_left_is_removed_by_the_next_one(tmp_path):
    save_photographs(tmp_path / "in")
    script = "import os; from airpipe.curation import listing; listing._copy = lambda *_: os._exit(9); "
    script += f"listing.write_listing({{'in': ('images', {str(tmp_path / 'in')!r})}}, listing.Path('out/listing.tsv'))"
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=one_thread()).returncode == 9
    [left] = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert (left / "draft.tsv").stat().st_size > 0
    write_listing({"in": ("images", str(tmp_path / "in"))}, tmp_path / "out" / "listing.tsv")
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir() or path.suffix == ".lock"]


# Scoring


def test_damaged_files_are_rows_with_a_reason_and_others_have_scores(tmp_path):
    save_photographs(tmp_path / "in")
    (tmp_path / "in" / "html.jpg").write_text("<html>not found</html>")
    whole = (tmp_path / "in" / "coffee.png").read_bytes()
    (tmp_path / "in" / "cut.png").write_bytes(whole[: len(whole) // 2])
    save(tmp_path / "in" / "large.png", np.zeros((1001, 1000, 3), np.uint8))
    rows = rows_of(score(tmp_path, {"in": ("images", str(tmp_path / "in"))}))
    assert rows["html.jpg"]["problem"].startswith("in/html.jpg: cannot be read")
    assert "in/cut.png" in rows["cut.png"]["problem"] and str(tmp_path) not in rows["cut.png"]["problem"]
    assert rows["large.png"]["problem"] == "in/large.png: 1000x1001 pixels, more than 1000000"
    assert rows["coffee.png"]["problem"] == "" and float(rows["coffee.png"]["niqe"]) > 0
    assert len(rows["coffee.png"]["patches"].split()) == 9 and len(rows["coffee.png"]["phash"]) == 16
    assert rows["cut.png"]["width"] == rows["cut.png"]["niqe"] == ""


def test_what_cannot_be_read_or_waits_for_ever_is_a_row_and_the_job_goes_on(tmp_path):
    save(tmp_path / "in" / "wide.png", np.zeros((1, 1_000_000, 3), np.uint8))
    os.mkfifo(tmp_path / "in" / "pipe.png")
    (tmp_path / "in" / "sick.png").symlink_to("/proc/self/mem")  # a regular file whose bytes answer an error
    settings = SETTINGS.model_copy(update={"largest": 2_000_000})
    rows = rows_of(score(tmp_path, {"in": ("images", str(tmp_path / "in"))}, settings=settings))
    assert rows["pipe.png"]["problem"] == "in/pipe.png: is no regular file"
    assert "in/sick.png: cannot be read" in rows["sick.png"]["problem"]
    assert rows["wide.png"]["problem"] == "" and rows["wide.png"]["width"] == "1000000"


def write_tar(path: Path, members: list[tuple[str, bytes]], link: str = "") -> Path:
    """A tar file in WebDataset's layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


def test_members_of_tar_files_are_scored_and_broken_ones_recorded(tmp_path):
    images = {f"{name}.png": encoded(pixels) for name, pixels in photographs().items()}
    members = [
        *images.items(),
        ("coffee.txt", b"words"),
        ("broken.jpg", b"\xff\xd8\xffno picture"),
        ("bad\udcff.png", b""),
    ]
    write_tar(tmp_path / "in" / "a.tar", members, link="link.png")
    whole = write_tar(tmp_path / "in" / "b.tar", list(images.items())).read_bytes()
    third = whole.index(b"chelsea.png")
    (tmp_path / "in" / "b.tar").write_bytes(whole[: third + 600])
    (tmp_path / "in" / "c.tar").write_text("<html>no tar file</html>")
    (tmp_path / "in" / "d.tar").write_bytes(whole[:third])  # between two members
    rows = list(read_scores(score(tmp_path, {"in": ("tars", str(tmp_path / "in"))})))
    by_tar = {name: [row for row in rows if row["path"] == name] for name in ("a.tar", "b.tar", "c.tar", "d.tar")}
    first = {row["name"]: row["problem"] for row in by_tar["a.tar"]}
    assert [name for name, problem in first.items() if not problem] == list(images)
    assert first["broken.jpg"].startswith("in/a.tar/broken.jpg: ")
    assert first[r"bad\udcff.png"] == "the name is not UTF-8"
    assert first["link.png"] == "is a link or a special file"
    assert [row["name"] for row in by_tar["b.tar"] if not row["problem"]] == list(images)[:2]
    assert by_tar["b.tar"][-1]["problem"].startswith("the rest of the tar file cannot be read (")
    assert [row["problem"] for row in by_tar["c.tar"]] == [
        "the rest of the tar file cannot be read (not a tar file, but something else)"
    ]
    assert [row["name"] for row in by_tar["d.tar"]] == [*list(images)[:2], ""]
    assert by_tar["d.tar"][-1]["problem"] == "the rest of the tar file cannot be read (the end mark is missing)"
    assert [row["member"] for row in by_tar["a.tar"]] == [str(number) for number in range(8)]


def test_pictures_of_a_tar_file_have_the_scores_of_the_same_files(tmp_path):
    save_photographs(tmp_path / "files")
    data = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "files").iterdir())]
    write_tar(tmp_path / "tars" / "all.tar", data)
    alone = score(tmp_path / "1", {"in": ("images", str(tmp_path / "files"))})
    packed = score(tmp_path / "2", {"in": ("tars", str(tmp_path / "tars"))})
    for one, other in zip(read_scores(alone), read_scores(packed), strict=True):
        for column in one.keys() - {"line", "member", "path", "name"}:
            assert one[column] == other[column], column


def versions(folder: Path) -> dict[str, tuple[str, str]]:
    """Two sources: photographs as files, and tar files with smaller and recompressed ones."""
    for number, (name, pixels) in enumerate(save_photographs(folder / "files").items()):
        smaller = cv2.resize(pixels, (160, 160), interpolation=cv2.INTER_AREA)
        turned = np.ascontiguousarray(pixels.swapaxes(0, 1))
        data = [(f"{name}_smaller.png", encoded(smaller)), (f"{name}_turned.png", encoded(turned))]
        write_tar(folder / "tars" / f"{number}.tar", data)
    return {"files": ("images", str(folder / "files")), "tars": ("tars", str(folder / "tars"))}


def test_scores_are_the_same_bytes_whatever_the_number_of_shards(tmp_path):
    sources = versions(tmp_path)
    whole = bodies(score(tmp_path / "1", sources))
    for shards in (3, 12):
        assert bodies(score(tmp_path / str(shards), sources, shards)) == whole
    assert whole.count(b"\n") == 15


def score_words(folder: Path, sources: dict[str, tuple[str, str]]) -> list[str]:
    (folder / "scores.yaml").write_text(yaml.safe_dump(SETTINGS.model_dump(mode="json")))
    words = [sys.executable, str(ROOT / "scripts/score_pictures.py"), str(folder / "listing.tsv")]
    words += [word for name, (kind, place) in sources.items() for word in ("--source", f"{name}={kind}:{place}")]
    words += ["--settings", str(folder / "scores.yaml"), "--shard", "00000-of-00001"]
    return [*words, "--output", str(folder / "killed" / "scores.csv")]


def test_a_job_that_is_killed_three_times_ends_with_the_same_bytes(tmp_path):
    sources = versions(tmp_path)
    for number in range(30):
        save(tmp_path / "files" / f"more{number}.png", np.roll(photographs()["coffee"], 5 * number, axis=0))
    [whole] = score(tmp_path, sources)
    words, seen = score_words(tmp_path, sources), 1
    for _ in range(3):
        process = subprocess.Popen(words, env=one_thread(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and lines_there(tmp_path / "killed") < seen + 8:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert seen + 8 <= lines_there(tmp_path / "killed") < 46, "killed in the middle"
        seen = lines_there(tmp_path / "killed")
    subprocess.run(words, env=one_thread(), check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "killed" / "scores.csv").read_bytes() == whole.read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["scores.csv"]


def lines_there(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.part"))


def stop_after(pictures: int, folder: Path, sources) -> Path:
    """Score until a picture, as a process that ends there does; return the half-written table."""
    left = iter(range(pictures))

    def opened(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return open_picture(*arguments)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scoring, "open_picture", opened)
        score(folder, sources)
    return next((folder / "scores").glob("*.part"))


@pytest.mark.parametrize("damage", [b"", b"3,0,files,half", b"3,0,files\n", b"\0\0\0\0\0\0\n", b"\xff\xfe"])
def test_a_half_written_row_is_cut_off_and_scored_again(tmp_path, damage):
    sources = versions(tmp_path)
    whole = score(tmp_path / "whole", sources)[0].read_bytes()
    part = stop_after(7, tmp_path, sources)
    assert whole.startswith(part.read_bytes()) and lines_there(tmp_path / "scores") == 8
    part.write_bytes(part.read_bytes() + damage)
    assert score(tmp_path, sources)[0].read_bytes() == whole


def test_rows_of_other_settings_are_not_gone_on_with(tmp_path):
    sources = versions(tmp_path)
    part = stop_after(7, tmp_path, sources)
    other = SETTINGS.model_copy(update={"flat_below": 100.0})
    [file] = score(tmp_path, sources, settings=other)
    assert not part.exists() and len(table(file)) == 15
    assert file.read_bytes() != score(tmp_path / "other", sources)[0].read_bytes()


# Faults of the machine, long names, long fields


def test_a_source_that_goes_away_while_it_is_scored_stops_the_job_and_records_nothing(tmp_path, monkeypatch):
    sources = {"in": ("images", str(tmp_path / "in"))}
    save_photographs(tmp_path / "in")
    [whole] = score(tmp_path / "whole", sources)
    seen = iter(range(9))

    def opened(*arguments):
        if next(seen) == 2:  # unmounted: another, empty folder lies there
            (tmp_path / "in").rename(tmp_path / "away")
            (tmp_path / "in").mkdir()
        return open_picture(*arguments)

    told = pytest.raises(AirpipeError, match=r"source in: .* is no longer the folder that was there. Mount it again")
    with monkeypatch.context() as patch, told:
        patch.setattr(scoring, "open_picture", opened)
        score(tmp_path, sources)
    [part] = (tmp_path / "scores").glob("*.part")
    assert [row["problem"] for row in table(part)] == [""] * 2
    (tmp_path / "in").rmdir()
    (tmp_path / "away").rename(tmp_path / "in")
    assert score(tmp_path, sources)[0].read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("kind", ["images", "tars"])
def test_a_full_disk_for_temporary_files_stops_the_job_and_records_nothing(tmp_path, monkeypatch, kind):
    save_photographs(tmp_path / "in")
    data = [(path.name, path.read_bytes()) for path in sorted((tmp_path / "in").iterdir())]
    write_tar(tmp_path / "in" / "a.tar", data)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, *arguments, **named):
        return full() if path.name == "picture" else open(path, *arguments, **named)

    if kind == "images":
        monkeypatch.setattr("airpipe.images.tempfile.TemporaryFile", full)
    else:
        monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(AirpipeError, match=r"cannot be written \(No space left on device\)"):
        score(tmp_path, {"in": (kind, str(tmp_path / "in"))})
    assert [table(part) for part in (tmp_path / "scores").glob("*.part")] == [[]]


def test_more_patches_than_a_field_of_python_holds_are_chosen_and_packed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (800, 1000, 3), np.uint8)
    save(tmp_path / "in" / "noise.png", noise)
    sources = {"in": ("images", str(tmp_path / "in"))}
    tiny = PictureScoring(patch=8, cell=4, flat_below=0.001)
    files = score(tmp_path, sources, settings=tiny)
    facts = choose(files, Choosing(bounds={"side": Bound(least=1)}), 8, tmp_path / "chosen.csv")
    assert facts["patches"] == 12_500 and (tmp_path / "chosen.csv").stat().st_size > 131_072
    with Opener(sources, Fetcher(tmp_path / "cache", 1.0)) as opener:
        count = pack_part(
            partial(read_part, tmp_path / "chosen.csv", 0, 1), opener, "a.train.0", tmp_path, tmp_path / "0.json"
        )
    assert count == 12_500 and len(table(tmp_path / "0.csv")) == 12_500


def test_names_and_addresses_without_end_are_left_out_and_recorded(tmp_path):
    addresses = tmp_path / "addresses.txt"
    addresses.write_bytes(codecs.BOM_UTF8 + b"http://h/1.jpg\nhttp://h/" + b"x" * 200_000 + b".jpg\n")
    facts = write_listing({"web": ("urls", str(addresses))}, tmp_path / "listing.tsv")
    assert (tmp_path / "listing.tsv").read_text() == "web\thttp://h/1.jpg\n" and facts["left_out"] == 1
    [row] = table(tmp_path / "listing.left_out.csv")
    assert row["reason"] == "is longer than 4096 characters" and len(row["path"]) == 4096
    write_tar(tmp_path / "in" / "a.tar", [("x" * 5000 + ".png", b""), ("coffee.png", encoded(photographs()["coffee"]))])
    first, second = read_scores(score(tmp_path, {"in": ("tars", str(tmp_path / "in"))}))
    assert first["problem"] == "is longer than 4096 characters" and second["problem"] == ""


def test_packing_takes_no_more_memory_for_more_pictures(tmp_path):
    """Of 5 and of 50 pictures, with 36 patches each."""
    save(tmp_path / "in" / "a.png", photographs()["coffee"][:96, :96])
    sha256 = sha256_file(tmp_path / "in" / "a.png")
    windows = " ".join(str(Window(16, 16, left, top)) for top in range(0, 96, 16) for left in range(0, 96, 16))
    row = {"source": "in", "path": "a.png", "name": "", "member": "0", "sha256": sha256, "width": "96", "height": "96"}
    peaks = []
    with Opener({"in": ("images", str(tmp_path / "in"))}, Fetcher(tmp_path / "cache", 1.0)) as opener:
        for count in (1, 5, 50):  # the first call imports and caches

            def rows(count=count):
                return ({**row, "line": str(number), "windows": windows} for number in range(count))

            tracemalloc.start()
            assert pack_part(rows, opener, f"a.{count}", tmp_path, tmp_path / f"{count}.json") == 36 * count
            assert tar_part(rows, opener, tmp_path / f"{count}.tar") == 36 * count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[2] < 1.25 * peaks[1]


# Choosing


def test_quantiles_are_exact_and_of_readable_pictures_only():
    values = [float(f"{value:.6g}") for value in np.random.default_rng(0).normal(0, 10, 997)]
    rows = [{"niqe": f"{value:.6g}", "blur": ""} for value in values] + [{"niqe": "", "blur": ""}] * 50
    shares = (0, 0.02, 0.5, 0.98, 1)
    found = exact_quantiles({("niqe", str(share)): share for share in shares}, lambda: iter(rows))
    for share in shares:
        assert found["niqe", str(share)] == np.quantile(values, share, method="lower")
    with pytest.raises(AirpipeError, match="no picture has the score 'blur'"):
        exact_quantiles({("blur", "most"): 0.5}, lambda: iter(rows))


@pytest.mark.parametrize("bits", [0, 3, 6, 10])
def test_twins_are_those_that_comparing_all_with_all_finds(bits):
    generator = np.random.default_rng(bits)
    seeds = generator.integers(0, 2**63, 40, dtype=np.uint64)
    flips = [
        np.uint64(sum(1 << int(bit) for bit in generator.choice(64, size % 12, replace=False))) for size in range(400)
    ]
    hashes = np.array([seeds[number % 40] ^ flip for number, flip in enumerate(flips)], np.uint64)
    pixels = generator.integers(1, 6, 400)
    rank = np.empty(400, int)
    rank[sorted(range(400), key=lambda number: (-pixels[number], number))] = np.arange(400)
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= bits
    best = np.where(near, rank[None], 1000).min(axis=1)
    expected = [list(rank).index(best[number]) if best[number] < rank[number] else -1 for number in range(400)]
    assert twins(hashes, pixels, bits).tolist() == expected
    assert 20 < sum(one >= 0 for one in expected) < 400


def test_nothing_has_a_twin_in_an_empty_list():
    assert twins(np.empty(0, np.uint64), np.empty(0, np.int64), 6).tolist() == []


def test_the_larger_of_two_pictures_that_show_the_same_is_kept_and_all_reasons_are_told(tmp_path):
    sources = versions(tmp_path)
    pixels = photographs()["coffee"]
    save(tmp_path / "files" / "small.png", pixels[:80, :80])
    save(tmp_path / "files" / "soft.png", cv2.GaussianBlur(pixels, (0, 0), 6))
    save(tmp_path / "files" / "plain.png", np.full((200, 200, 3), 200, np.uint8))
    (tmp_path / "files" / "torn.png").write_bytes(b"\x89PNG")
    files = score(tmp_path, sources)
    facts = choose(files, CHOOSING, 64, tmp_path / "chosen.csv")
    removed = {row["name"] or row["path"]: row for row in table(tmp_path / "removed.csv")}
    assert removed["small.png"]["reasons"] == "side"
    assert removed["soft.png"]["reasons"].split()[0] == "blur"
    assert removed["plain.png"]["reasons"] == "blur flatness patches"
    assert removed["torn.png"]["reasons"] == "unreadable"
    assert removed["coffee_smaller.png"]["reasons"] == "duplicate"
    twin = removed["coffee_smaller.png"]["twin"]
    chosen = table(tmp_path / "chosen.csv")
    assert [row["path"] for row in chosen if f"{row['line']}:{row['member']}" == twin] == ["coffee.png"]
    assert tuple(chosen[0]) == CHOSEN and len(chosen) == facts["chosen"] == 10
    assert facts["pictures"] == 19 == len(chosen) + len(removed)
    assert facts["removed"]["duplicate"] == 5 and facts["unreadable"] == {"files": 1}
    assert facts["patches"] == sum(len(row["windows"].split()) for row in chosen)


def test_a_quantile_keeps_its_share(tmp_path):
    files = score(tmp_path, versions(tmp_path))
    half = Choosing(bounds={"brisque": Bound(most_quantile=0.5)}, duplicate_bits=0)
    facts = choose(files, half, 64, tmp_path / "chosen.csv")
    values = sorted(float(row["brisque"]) for row in read_scores(files))
    assert facts["bounds"]["brisque"]["most"] == pytest.approx(values[7], rel=1e-6)
    assert facts["removed"]["brisque"] == 7


def test_when_nothing_is_left_the_worst_filters_are_told(tmp_path):
    files = score(tmp_path, versions(tmp_path))
    with pytest.raises(AirpipeError, match=r"none of 15 pictures is left; removed by side 15"):
        choose(files, Choosing(bounds={"side": Bound(least=1024)}), 64, tmp_path / "chosen.csv")


def test_scores_that_do_not_fit_the_choice_are_told(tmp_path):
    save_photographs(tmp_path / "in")
    files = score(tmp_path, {"in": ("images", str(tmp_path / "in"))})
    with pytest.raises(AirpipeError, match=r"00000-of-00001.csv: bounds: unknown score 'nima'"):
        choose(files, Choosing(bounds={"nima": Bound(least=1)}), 64, tmp_path / "chosen.csv")
    with pytest.raises(AirpipeError, match="picture 0:0 was scored with 9 patches; with a side of 32 it has 36"):
        choose(files, CHOOSING, 32, tmp_path / "chosen.csv")
    assert not (tmp_path / "chosen.csv").exists()


def test_bounds_that_mean_nothing_are_refused():
    source = {"kind": "images", "root": "x"}
    with pytest.raises(ValueError, match="unknown score 'niqs'; did you mean 'niqe'"):
        MadeCurated(kind="curated", sources={"a": source}, choose={"bounds": {"niqs": {"most": 5}}})
    with pytest.raises(ValueError, match="as a number or as a quantile, not both"):
        Bound(most=5, most_quantile=0.5)
    with pytest.raises(ValueError, match="give least, most"):
        Bound()
    with pytest.raises(ValueError, match="patch 100 is no multiple of cell 16"):
        MadeCurated(kind="curated", sources={"a": source}, scores={"patch": 100})


def test_names_of_jobs_say_how_many_there_are():
    assert numbered(2) == ["00000-of-00002", "00001-of-00002"] and place_of("00001-of-00002") == (1, 2)
    with pytest.raises(AirpipeError, match="'00002-of-00002': expected a number and a count"):
        place_of("00002-of-00002")


# Packs


def packed(folder: Path, sources, parts: int = 1, shards: int = 1) -> list[Path]:
    """Facts of the packs of all parts."""
    choose(score(folder, sources, shards), CHOOSING, 64, folder / "chosen.csv")
    files = [folder / "parts" / f"{name}.json" for name in numbered(parts)]
    with Opener(sources, Fetcher(folder / "cache", 1.0)) as opener:
        for number, file in enumerate(files):
            rows = partial(read_part, folder / "chosen.csv", number, parts)
            pack_part(rows, opener, f"toy.train.{number:05d}", folder / "packed", file)
    return files


def folders(files) -> list[Path]:
    return [Path(json.loads(file.read_text())["folder"]) for file in files]


def test_packs_hold_the_pixels_of_the_chosen_patches(tmp_path):
    [file] = packed(tmp_path, versions(tmp_path))
    pack = Pack.open(folders([file])[0])
    pack.verify()
    pictures = {f"{name}.png": pixels for name, pixels in photographs().items()}
    index = table(file.with_suffix(".csv"))
    assert len(index) == len(pack) > 60
    for number, row in enumerate(index):
        assert pack.name(number) == row["name"] and not pack.paired(number)
        if row["source"] == "files":
            left, top = map(int, row["name"].split("_")[-2:])
            assert np.array_equal(pack.layers(number)[0], pictures[row["path"]][top : top + 64, left : left + 64])


def test_packs_are_the_same_bytes_whatever_the_shards(tmp_path):
    sources = versions(tmp_path)
    one, other = packed(tmp_path / "1", sources, 3, 1), packed(tmp_path / "2", sources, 3, 5)
    for first, second in zip(folders(one), folders(other), strict=True):
        assert first.name == second.name
        for path in first.iterdir():
            assert path.read_bytes() == (second / path.name).read_bytes()
    for name in ("chosen.csv", "removed.csv", "chosen.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_a_pack_that_was_killed_is_made_anew(tmp_path):
    sources = versions(tmp_path)
    [file] = packed(tmp_path, sources)
    [folder] = folders([file])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    folder.rename(folder.with_name(f"{folder.name}.partial"))
    (folder.with_name(f"{folder.name}.partial") / "pixels.bin").write_bytes(b"half")
    packed(tmp_path, sources)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_tar_files_hold_the_patches_of_the_packs_and_are_read_back_as_a_source(tmp_path):
    sources = versions(tmp_path)
    [file] = packed(tmp_path, sources)
    rows = partial(read_part, tmp_path / "chosen.csv", 0, 1)
    tars = [tmp_path / name / "0.tar" for name in ("tars1", "tars2")]
    with Opener(sources, Fetcher(tmp_path / "cache", 1.0)) as opener:
        for tar in tars:
            tar_part(rows, opener, tar)
    assert tars[0].read_bytes() == tars[1].read_bytes()
    assert tars[0].with_suffix(".csv").read_bytes() == file.with_suffix(".csv").read_bytes()
    with tarfile.open(tars[0]) as tar:
        assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in tar} == {
            (0, 0, 0, "", 0o644)
        }
    pack, count = Pack.open(folders([file])[0]), 0
    with Opener({"back": ("tars", str(tmp_path / "tars1"))}, Fetcher(tmp_path / "cache", 1.0)) as opener:
        for count, found in enumerate(opener.find(Line(0, "back", "0.tar")), 1):
            assert found.name == f"{pack.name(count - 1)}.png"
            assert np.array_equal(open_picture(found, "", 64 * 64).pixels, pack.layers(count - 1)[0])
    assert count == len(pack) > 60


def test_a_tar_file_that_is_not_finished_leaves_none(tmp_path):
    sources = {"in": ("images", str(tmp_path / "in"))}
    save_photographs(tmp_path / "in")
    choose(score(tmp_path, sources), CHOOSING, 64, tmp_path / "chosen.csv")
    rows = partial(read_part, tmp_path / "chosen.csv", 0, 1)
    save(tmp_path / "in" / "rocket.png", photographs()["coffee"])  # the last one
    told = pytest.raises(AirpipeError, match=r"in/rocket.png: is not what it was when it was scored")
    with Opener(sources, Fetcher(tmp_path / "cache", 1.0)) as opener, told:
        tar_part(rows, opener, tmp_path / "tars" / "0.tar")
    assert [path.name for path in (tmp_path / "tars").iterdir()] == ["0.csv"]


def test_the_list_over_all_parts_is_one_source_of_patches(tmp_path):
    files = packed(tmp_path, versions(tmp_path), parts=3)
    pairs, packs = tmp_path / "toy.train.csv", tmp_path / "packs" / "toy.train.json"
    count = join_parts(files, pairs, packs)
    source = usable_packs([pairs], [packs])["toy.train"]
    assert isinstance(source, JoinedPacks) and len(source) == count == len(table(pairs))
    rows = table(pairs)
    parts = [Pack(folder) for folder in folders(files)]
    singles = [layers for pack in parts for layers in (pack.layers(number)[0] for number in range(len(pack)))]
    for number in range(count):
        assert source.name(number) == rows[number]["name"] and source.level(number) == ""
        assert np.array_equal(source.layers(number)[0], singles[number])
    assert len({row["group"] for row in rows}) == json.loads((tmp_path / "chosen.json").read_text())["chosen"]
    with pytest.raises(IndexError):
        source.name(count)
    assert [layers.shape[1::-1] for layers in singles] == list(map(tuple, source.sides()))


def test_patches_smaller_than_those_of_training_are_told_before_its_first_step(tmp_path):
    files = packed(tmp_path, versions(tmp_path), parts=3)
    pairs, packs = tmp_path / "toy.train.csv", tmp_path / "packs" / "toy.train.json"
    count = join_parts(files, pairs, packs)
    lists = PairLists([pairs], [[]], usable_packs([pairs], [packs]))
    part = DataPart(pairs="toy.train")
    first = table(pairs)[0]["name"]
    with pytest.raises(
        AirpipeError, match=rf"{count} of {count} images is smaller than patch_size 65: {first} \(64x64\)"
    ):
        refuse_small([part], lists.sizes(), 65)
    refuse_small([part], lists.sizes(), 64)


def test_packs_that_are_gone_are_told_since_their_list_has_no_files(tmp_path):
    files = packed(tmp_path, versions(tmp_path), parts=2)
    pairs, packs = tmp_path / "toy.train.csv", tmp_path / "packs" / "toy.train.json"
    join_parts(files, pairs, packs)
    folders(files)[1].rename(tmp_path / "elsewhere")
    with pytest.raises(AirpipeError, match=r"is gone, and its images are nowhere else\. Remove .*toy.train.json"):
        usable_packs([pairs], [packs])


def test_a_picture_that_changed_since_it_was_scored_is_told(tmp_path):
    sources = versions(tmp_path)
    choose(score(tmp_path, sources), CHOOSING, 64, tmp_path / "chosen.csv")
    save(tmp_path / "files" / "coffee.png", photographs()["rocket"])
    rows = partial(read_part, tmp_path / "chosen.csv", 0, 1)
    told = pytest.raises(AirpipeError, match=r"files/coffee.png: is not what it was when it was scored")
    with Opener(sources, Fetcher(tmp_path / "cache", 1.0)) as opener, told:
        pack_part(rows, opener, "toy.train.00000", tmp_path / "packed", tmp_path / "part.json")
    assert not [path for path in (tmp_path / "packed").iterdir() if not path.name.endswith((".partial", ".lock"))]


def test_a_fetched_picture_that_is_gone_is_asked_for_again_when_it_is_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(polite, "PATIENCE", Patience(tries=1, backoff=0, timeout=(5.0, 5.0)))
    with Web() as web:
        page = web.pages["/coffee.png"] = Page(encoded(photographs()["coffee"]))
        (tmp_path / "addresses.txt").write_text(web.url("/coffee.png"))
        sources = {"web": ("urls", str(tmp_path / "addresses.txt"))}
        [whole] = folders(packed(tmp_path, sources))
        for name, busy, told in (
            ("again", 1, nullcontext()),
            (
                "never",
                9,
                pytest.raises(AirpipeError, match=r"answered 503.*is no longer in .*cache; run again"),
            ),
        ):
            shutil.rmtree(tmp_path / "cache")
            page.answers = [(503, {}, b"")] * busy
            rows = partial(read_part, tmp_path / "chosen.csv", 0, 1)
            with Opener(sources, Fetcher(tmp_path / "cache", 1000)) as opener, told:
                pack_part(rows, opener, "toy.train.00000", tmp_path / name, tmp_path / f"{name}.json")
    [again] = folders([tmp_path / "again.json"])
    assert (again / "pixels.bin").read_bytes() == (whole / "pixels.bin").read_bytes()


# Report and bad pictures


def test_the_report_shows_what_each_filter_removed(tmp_path):
    sources = versions(tmp_path)
    save(tmp_path / "files" / "plain.png", np.full((200, 200, 3), 200, np.uint8))
    (tmp_path / "files" / "to<rn>.png").write_bytes(b"\x89PNG")
    facts = choose(score(tmp_path, sources), CHOOSING, 64, tmp_path / "chosen.csv")
    with Opener(sources, Fetcher(tmp_path / "cache", 1.0)) as opener:
        write_report("toy", facts, opener, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "10 of 17 pictures are kept" in text
    for reason in ("blur", "flatness", "duplicate", "unreadable"):
        assert f"<h2>{reason}</h2>" in text
    assert text.count("data:image/jpeg;base64,") == 5 + 3  # 5 duplicates, and the plain one under three headings
    assert "to&lt;rn&gt;.png" in text and "to<rn>" not in text
    assert "<td>blur<td>to 0.7<td class=n>1<" in text


def test_bad_pictures_are_of_all_kinds_and_the_same_again(tmp_path):
    good = [tmp_path / "good" / f"{name}.png" for name in save_photographs(tmp_path / "good")]
    for name in ("one", "two"):
        make_bad_pictures(good[:4], good[4:], tmp_path / name, 24, seed=1)
    rows = table(tmp_path / "one" / "truth.csv")
    assert [row["kind"] for row in rows] == [*KINDS] * 4
    assert {row["original"] for row in rows if row["kind"] == "test"} == {good[4].name}
    for row in rows:
        assert (tmp_path / "one" / row["path"]).read_bytes() == (tmp_path / "two" / row["path"]).read_bytes()
    tiny = [cv2.imread(str(tmp_path / "one" / row["path"])).shape for row in rows if row["kind"] == "tiny"]
    assert all(16 <= min(shape[:2]) <= 97 for shape in tiny)
    with pytest.raises(AirpipeError, match="is there already"):
        make_bad_pictures(good[:4], good[4:], tmp_path / "one", 24, seed=1)
