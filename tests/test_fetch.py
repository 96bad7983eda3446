import errno
import gzip
import hashlib
import inspect
import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import yaml
from packaging.requirements import Requirement
from test_archives import tar_of, tree, zip_of
from web import Page, Web

from airpipe.data import archive_rules, obtain, remote, streams, transfer
from airpipe.data.checksums import Recorded, record_checksums
from airpipe.data.fetch import Places, default_wait, fetch_dataset
from airpipe.data.transfer import Patience
from airpipe.errors import AirpipeError
from airpipe.settings.datasets import DatasetSettings

SCRIPT = Path(__file__).parents[1] / "scripts" / "fetch_dataset.py"
FILES = {
    "clean/1.png": np.random.default_rng(1).bytes(40_000),
    "degraded/1.png": np.random.default_rng(2).bytes(40_000),
}
DATA = zip_of(FILES, zipfile.ZIP_STORED)
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = zip_of({"clean/2.png": np.random.default_rng(3).bytes(80_000)}, zipfile.ZIP_STORED)
DRIVE_ID = "1AbCdEfGhIjKlMnOpQrStUvWxYz012345"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """No pauses, and nothing of 127.0.0.1 through a proxy."""
    for module in (transfer, remote):
        monkeypatch.setattr(module, "PATIENCE", Patience(tries=3, backoff=0, longest_wait=1, timeout=(5, 5)))
    monkeypatch.setattr(obtain, "POLL_SECONDS", 0.05)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web():
    with Web() as server:
        server.pages["/data.zip"] = Page(DATA)
        yield server


@pytest.fixture
def places(tmp_path):
    root = tmp_path / "resources"
    return Places(root / "datasets/rain", root / "downloads/rain", tmp_path / "config/datasets.lock.yaml")


def entry(*sources):
    """A data set; a source is a list of files, a file a mapping."""
    plain = [{"read_in": f"page {n}", "verified": True, "files": files} for n, files in enumerate(sources, start=1)]
    splits = {"train": {"clean": "clean/*", "degraded": "degraded/*"}}
    facts = {"title": "Rain", "home": "https://example.org/rain", "licence": "research only"}
    return DatasetSettings.model_validate({**facts, "sources": plain, "splits": splits})


def at(url, **more):
    return {"url": url, "name": "data.zip", **more}


def fetch(places, *sources, wait=0.0):
    return fetch_dataset("rain", entry(*sources), places, wait)


def failure(places, *sources, wait=0.0):
    with pytest.raises(AirpipeError) as caught:
        fetch(places, *sources, wait=wait)
    assert not places.folder.exists()
    return str(caught.value)


def ranges(web):
    return [int(headers["Range"][6:-1]) for _, _, headers in web.log if "Range" in headers]


def parts(places):
    return list(places.downloads.rglob("*.part"))


# What works


def test_a_data_set_is_fetched_unpacked_and_described(web, places, capsys):
    facts = fetch(places, [at(web.url("/data.zip"), sha256=SHA, bytes=len(DATA))])
    assert tree(places.folder) == FILES
    assert json.loads(places.facts.read_text()) == facts
    assert facts["source"] == "page 1"
    assert facts["unpacked_files"] == 2
    assert facts["bytes_received"] == len(DATA)
    assert facts["bytes_received_twice"] == 0
    assert facts["files"][0]["sha256"] == SHA
    said = capsys.readouterr().err
    assert "https://example.org/rain" in said
    assert "research only" in said
    assert "by fetching you accept" in said
    assert "0 MB of downloads and may be deleted" in said
    assert not places.unpacking.exists()
    assert not places.lock.exists()  # the registry has the checksum


def test_a_folder_that_is_there_is_taken_as_it_is_and_never_called_fetched(web, places, capsys):
    places.folder.mkdir(parents=True)
    (places.folder / "mine.png").write_bytes(b"1")
    facts = fetch(places, [at(web.url("/data.zip"))])
    assert facts["source"] == "the folder was there"
    assert not places.facts.exists()
    assert f"{places.folder} is there and is taken as it is" in capsys.readouterr().err
    assert tree(places.folder) == {"mine.png": b"1"}
    assert web.log == []


def test_the_marker_is_written_after_the_folder_is_there(web, places, monkeypatch):
    def kill(path, facts):
        assert tree(places.folder) == FILES
        raise KeyboardInterrupt

    monkeypatch.setattr("airpipe.data.fetch.write_json", kill)
    with pytest.raises(KeyboardInterrupt):
        fetch(places, [at(web.url("/data.zip"))])
    assert not places.facts.exists()


def test_a_marker_without_its_folder_is_removed_and_the_data_set_fetched_again(web, places, capsys):
    fetch(places, [at(web.url("/data.zip"))])
    places.folder.rename(places.folder.with_name("moved"))
    facts = fetch(places, [at(web.url("/data.zip"))])
    assert f"{places.facts}: its folder is gone; it is removed and rain is fetched again" in capsys.readouterr().err
    assert tree(places.folder) == FILES
    assert json.loads(places.facts.read_text()) == facts
    places.folder.rename(places.folder.with_name("moved again"))
    (places.downloads / "data.zip").unlink()
    failure(places, [at(web.url("/gone.zip"))])
    assert not places.facts.exists()


def test_files_go_into_their_subfolders_and_plain_files_are_not_unpacked(web, places):
    web.pages |= {"/b": Page(gzip.compress(tar_of({"b.png": b"2"}))), "/list.txt": Page(b"1.png\n")}
    files = [at(web.url("/data.zip"), into="one"), {"url": web.url("/b"), "name": "b.zip", "into": "two/x"}]
    files.append({"url": web.url("/list.txt"), "name": "list.txt"})
    facts = fetch(places, files)
    expected = {f"one/{name}": data for name, data in FILES.items()}
    assert tree(places.folder) == {**expected, "two/x/b.png": b"2", "list.txt": b"1.png\n"}
    assert facts["unpacked_files"] == 4


def test_complete_downloads_are_not_fetched_again(web, places):
    fetch(places, [at(web.url("/data.zip"))])
    places.folder.rename(places.folder.with_name("moved"))
    sent = web.sent
    facts = fetch(places, [at(web.url("/data.zip"))])
    assert web.sent == sent
    assert facts["bytes_received"] == len(DATA)
    assert tree(places.folder) == FILES


def test_the_leftover_of_a_killed_unpacking_is_removed(web, places):
    places.unpacking.mkdir(parents=True)
    (places.unpacking / "half.png").write_bytes(b"half")
    fetch(places, [at(web.url("/data.zip"))])
    assert tree(places.folder) == FILES


def test_a_second_process_on_one_data_set_is_told_to_wait(web, places):
    places.downloads.mkdir(parents=True)
    code = "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX); print(1,flush=True); input()"
    command = [sys.executable, "-c", code, str(places.downloads / ".busy")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert "another process is fetching 'rain'" in failure(places, [at(web.url("/data.zip"))])
        other.kill()
    assert fetch(places, [at(web.url("/data.zip"))])["unpacked_files"] == 2


# What servers do


def test_a_server_that_stops_midway_is_asked_for_the_rest(web, places):
    web.pages["/data.zip"].stops = [30_000, 60_000]
    facts = fetch(places, [at(web.url("/data.zip"), sha256=SHA)])
    assert ranges(web) == [30_000, 60_000]
    assert [headers.get("If-Range") for _, _, headers in web.log] == [None, '"one"', '"one"']
    assert facts["bytes_received_twice"] == 0
    assert web.sent == len(DATA)


def test_after_a_server_that_always_stops_the_next_run_goes_on(web, places):
    web.pages["/data.zip"].stops = [10_000, 20_000, 30_000]
    message = failure(places, [at(web.url("/data.zip"), sha256=SHA)])
    assert f"30000 of {len(DATA)} bytes are kept for the next run" in message
    assert [part.stat().st_size for part in parts(places)] == [30_000]
    fetch(places, [at(web.url("/data.zip"), sha256=SHA)])
    assert web.sent == len(DATA)
    assert parts(places) == []
    assert tree(places.folder) == FILES


def test_without_range_support_it_starts_again_and_counts_the_bytes_received_twice(web, places):
    web.pages["/data.zip"].stops, web.pages["/data.zip"].ranges = [30_000], False
    facts = fetch(places, [at(web.url("/data.zip"), sha256=SHA)])
    assert facts["bytes_received_twice"] == 30_000
    assert facts["bytes_received"] == len(DATA) + 30_000 == web.sent
    assert tree(places.folder) == FILES


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_between_two_attempts_is_never_spliced(web, places, if_range):
    web.pages["/data.zip"].stops = [10_000, 20_000, 30_000]
    failure(places, [at(web.url("/data.zip"))])
    web.pages["/data.zip"] = Page(OTHER, etag='"two"', if_range=if_range)
    facts = fetch(places, [at(web.url("/data.zip"))])
    assert facts["files"][0]["sha256"] == hashlib.sha256(OTHER).hexdigest()
    assert facts["bytes_received_twice"] >= 30_000
    assert list(tree(places.folder)) == ["clean/2.png"]


def test_without_a_validator_two_versions_of_one_length_are_never_spliced(web, places, capsys):
    web.pages["/data.zip"] = Page(DATA, etag="", stops=[10_000, 20_000, 30_000])
    failure(places, [at(web.url("/data.zip"))])
    other = zip_of({name: data[::-1] for name, data in FILES.items()}, zipfile.ZIP_STORED)
    assert len(other) == len(DATA)
    web.pages["/data.zip"] = Page(other, etag="")
    asked = len(web.log)
    facts = fetch(places, [at(web.url("/data.zip"))])
    assert facts["files"][0]["sha256"] == hashlib.sha256(other).hexdigest()
    assert facts["bytes_received_twice"] == 30_000
    assert "Range" not in web.log[asked][2]
    assert "cannot be resumed; it starts again from zero" in capsys.readouterr().err


def test_without_a_validator_a_known_checksum_allows_the_next_run_to_go_on(web, places):
    web.pages["/data.zip"] = Page(DATA, etag="", stops=[10_000, 20_000, 30_000])
    failure(places, [at(web.url("/data.zip"), sha256=SHA)])
    facts = fetch(places, [at(web.url("/data.zip"), sha256=SHA)])
    assert ranges(web) == [10_000, 20_000, 30_000]
    assert facts["bytes_received_twice"] == 0
    assert web.sent == len(DATA)


def test_a_file_of_unknown_length_that_was_cut_is_set_aside_and_fetched_again(web, places):
    web.pages["/data.zip"] = Page(DATA, length=False, stops=[70_000])
    message = failure(places, [at(web.url("/data.zip"))])
    wrong = places.downloads / "data.zip.wrong"
    assert "damaged" in message
    assert "the server did not say how long it is, so it may have been cut" in message
    assert f"It was moved to {wrong}: run the same command again" in message
    assert "Remove it" not in message
    assert wrong.read_bytes() == DATA[:70_000]
    assert sorted(path.name for path in places.downloads.iterdir()) == ["data.zip.wrong"]
    facts = fetch(places, [at(web.url("/data.zip"))])
    assert facts["files"][0]["length_unknown"] is True
    assert tree(places.folder) == FILES
    assert yaml.safe_load(places.lock.read_text())["rain"][web.url("/data.zip")]["sha256"] == SHA


def test_a_damaged_archive_stays_where_a_checksum_or_a_person_says_that_it_is_the_right_one(web, places):
    damaged = DATA[:-100]
    web.pages["/data.zip"] = Page(damaged)
    sha256 = hashlib.sha256(damaged).hexdigest()
    for source in ([at(web.url("/data.zip"), sha256=sha256)], [{"by_hand": "the form", "name": "data.zip"}]):
        message = failure(places, source)
        assert "damaged" in message
        assert "Remove it and fetch it again" in message
        assert (places.downloads / "data.zip").read_bytes() == damaged
    assert not list(places.downloads.glob("*.wrong"))


def test_an_archive_that_only_lacks_a_tool_is_not_fetched_again(web, places, monkeypatch):
    monkeypatch.setattr("airpipe.data.archive_tools.TOOLS", ("no-such-tool",))
    web.pages["/data.rar"] = Page(b"Rar!\x1a\x07\x01\x00" + bytes(100))
    source = [{"url": web.url("/data.rar"), "name": "data.rar"}]
    for _ in range(2):
        assert "apt install libarchive-tools" in failure(places, source)
    assert len(web.log) == 1


def test_of_a_plain_file_of_unknown_length_no_checksum_is_recorded(web, places, capsys):
    web.pages["/list.txt"] = Page(b"1.png\n2.png\n", length=False, stops=[6])
    facts = fetch(places, [{"url": web.url("/list.txt"), "name": "list.txt"}])
    assert facts["files"][0]["length_unknown"] is True
    assert not places.lock.exists()
    assert "/list.txt: length unknown, may be cut; no checksum is recorded" in capsys.readouterr().err


def test_the_length_of_a_file_in_chunks_is_known_by_its_last_chunk(web, places):
    web.pages["/list.txt"] = Page(b"1.png\n2.png\n", chunked=True, stops=[6])
    facts = fetch(places, [{"url": web.url("/list.txt"), "name": "list.txt"}])
    assert tree(places.folder) == {"list.txt": b"1.png\n2.png\n"}
    assert facts["files"][0]["length_unknown"] is False
    assert places.lock.exists()


def test_a_redirect_to_an_impossible_address_is_reported_and_the_next_source_taken(web, places, capsys):
    web.pages["/moved.zip"] = Page(answers=[(302, {"Location": "http://[bad/"}, b"")])
    fetch(places, [at(web.url("/moved.zip"))], [at(web.url("/data.zip"))])
    assert f"{web.url('/moved.zip')}: leads to an address that cannot be opened" in capsys.readouterr().err
    assert tree(places.folder) == FILES


def test_the_date_stands_in_for_a_weak_etag(web, places):
    page = web.pages["/data.zip"]
    page.etag, page.date, page.stops = 'W/"weak"', "Wed, 01 Jan 2025 00:00:00 GMT", [30_000]
    fetch(places, [at(web.url("/data.zip"), sha256=SHA)])
    assert web.log[1][2]["If-Range"] == page.date


def test_a_web_page_with_status_200_is_not_kept(web, places):
    html = b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    for page in (Page(html, kind="text/html; charset=utf-8"), Page(html)):
        web.pages["/data.zip"] = page
        message = failure(places, [at(web.url("/data.zip"))])
        assert "a web page came instead of data.zip" in message
        assert "quota" in message
        assert [path.name for path in places.downloads.iterdir()] == []
    web.pages["/data.zip"] = Page(DATA)
    assert fetch(places, [at(web.url("/data.zip"))])["bytes_received"] == len(DATA)


def test_other_bytes_under_the_name_of_an_archive_are_refused(web, places):
    web.pages["/data.zip"] = Page(b'{"error": "come back later"}')
    message = failure(places, [at(web.url("/data.zip"))])
    assert "not an archive, although it is called data.zip" in message
    assert (places.downloads / "data.zip.wrong").read_bytes().startswith(b'{"error')
    assert not places.lock.exists()


@pytest.mark.parametrize(
    ("status", "requests_made", "said"),
    [(403, 1, "403 Forbidden: it is not public"), (404, 1, "404 Not Found: it has moved"), (500, 3, "500 Internal")],
)
def test_a_refusal_is_reported_and_the_next_run_succeeds(web, places, status, requests_made, said):
    web.pages["/data.zip"].answers = [(status, {}, b"no")] * requests_made
    assert said in failure(places, [at(web.url("/data.zip"))])
    assert len(web.log) == requests_made
    fetch(places, [at(web.url("/data.zip"))])
    assert tree(places.folder) == FILES


def test_a_busy_server_is_asked_again_after_the_time_it_names_up_to_a_cap(web, places, monkeypatch):
    waits = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    web.pages["/data.zip"].answers = [(500, {}, b""), (429, {"Retry-After": "1"}, b"")]
    fetch(places, [at(web.url("/data.zip"))])
    assert len(web.log) == 3
    assert waits == [1]
    places.folder.rename(places.folder.with_name("moved"))
    (places.downloads / "data.zip").unlink()
    web.pages["/data.zip"].answers = [(429, {"Retry-After": "86400"}, b"")] * 3
    message = failure(places, [at(web.url("/data.zip"))])
    assert "429 Too Many Requests (try again after 86400 s)" in message
    assert waits == [1, 1, 1]  # not a day


def test_a_server_that_is_not_there_is_reported(places):
    message = failure(places, [at("http://127.0.0.1:9/data.zip")])
    assert "the connection failed (Connection refused), 3 times" in message


def test_a_size_that_the_registry_does_not_expect_is_refused_before_the_download(web, places):
    message = failure(places, [at(web.url("/data.zip"), bytes=5)])
    assert f"the server has {len(DATA)} bytes, the registry says 5" in message
    assert parts(places) == []


# Checksums


def test_a_wrong_file_is_renamed_and_never_unpacked(web, places):
    message = failure(places, [at(web.url("/data.zip"), sha256="0" * 64)])
    assert f"expected sha256 {'0' * 64} (the registry), found {SHA}" in message
    assert (places.downloads / "data.zip.wrong").read_bytes() == DATA
    assert not (places.downloads / "data.zip").exists()
    assert not places.lock.exists()


def test_a_checksum_is_recorded_on_first_use_and_enforced_afterwards(web, places):
    url = web.url("/data.zip")
    fetch(places, [at(url)])
    text = places.lock.read_text()
    assert text.startswith("# Checksums of downloaded files")
    recorded = yaml.safe_load(text)
    assert recorded["rain"][url].items() >= {"name": "data.zip", "sha256": SHA, "bytes": len(DATA)}.items()
    places.folder.rename(places.folder.with_name("moved"))
    (places.downloads / "data.zip").unlink()
    web.pages["/data.zip"] = Page(OTHER)
    message = failure(places, [at(url)])
    assert f"expected sha256 {SHA} ({places.lock}), found {hashlib.sha256(OTHER).hexdigest()}" in message
    assert (places.downloads / "data.zip.wrong").read_bytes() == OTHER
    assert places.lock.read_text() == text
    web.pages["/data.zip"] = Page(DATA)
    fetch(places, [at(url)])
    assert tree(places.folder) == FILES


def test_a_damaged_archive_is_not_recorded(web, places):
    web.pages["/data.zip"] = Page(DATA[:-100])
    assert "damaged" in failure(places, [at(web.url("/data.zip"))])
    assert not places.lock.exists()


def test_mirrors_with_other_bytes_under_one_name_do_not_collide(web, places):
    web.pages["/mirror/data.zip"] = Page(OTHER)
    first = [at(web.url("/data.zip")), {"url": web.url("/gone.zip"), "name": "gone.zip"}]
    facts = fetch(places, first, [at(web.url("/mirror/data.zip"))])
    assert facts["source"] == "page 2"
    assert tree(places.folder).keys() == {"clean/2.png"}
    recorded = yaml.safe_load(places.lock.read_text())["rain"]
    assert recorded.keys() == {web.url("/mirror/data.zip")}
    assert recorded[web.url("/mirror/data.zip")]["sha256"] == hashlib.sha256(OTHER).hexdigest()


def test_two_processes_record_checksums_of_two_data_sets_at_once(places):
    def add(name):
        code = (
            "import sys; from pathlib import Path; from airpipe.data.checksums import *\n"
            "for n in range(20): record_checksums(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3],"
            "{f'u{n}': Recorded(name='n', sha256='0'*64, bytes=1, recorded=today())})"
        )
        return subprocess.Popen([sys.executable, "-c", code, places.lock, places.lock.with_name(".guard"), name])

    both = [add("one"), add("two")]
    assert [process.wait() for process in both] == [0, 0]
    recorded = yaml.safe_load(places.lock.read_text())
    assert [len(recorded[name]) for name in ("one", "two")] == [20, 20]


def test_a_broken_lock_file_is_named(web, places):
    places.lock.parent.mkdir(parents=True)
    places.lock.write_text("rain: {x: {sha256: 1}}\n")
    assert "datasets.lock.yaml is not valid" in failure(places, [at(web.url("/data.zip"))])
    places.lock.write_text("# only a comment\n")
    fetch(places, [at(web.url("/data.zip"))])
    entry_there = Recorded(name="x", sha256="0" * 64, bytes=1, recorded="2025-01-01")
    record_checksums(places.lock, places.lock.with_name(".guard"), "rain", {web.url("/data.zip"): entry_there})
    assert SHA in places.lock.read_text()  # what is recorded stays


# Several sources, and people


def test_the_next_source_is_taken_when_one_fails(web, places, capsys):
    facts = fetch(places, [at(web.url("/gone.zip"))], [at(web.url("/data.zip"))])
    assert facts["source"] == "page 2"
    assert "source 1 of rain does not work" in capsys.readouterr().err


def test_when_all_sources_fail_the_message_has_each_reason_and_the_steps_by_hand(web, places):
    web.pages["/secret.zip"] = Page(answers=[(403, {}, b"")])
    drop = {"by_hand": "https://example.org/form, password rain", "name": "form.zip", "bytes": 5_000_000}
    message = failure(places, [at(web.url("/gone.zip"))], [at(web.url("/secret.zip"))], [drop])
    assert "sources tried: 3" in message
    assert "source 1: " in message and "404 Not Found" in message
    assert "source 2: " in message and "403 Forbidden" in message
    assert "open: https://example.org/form, password rain" in message
    assert f"put the file (5 MB) at: {places.downloads}/form.zip" in message
    assert f"put the file at: {places.downloads}/data.zip" in message
    assert "run the same command again" in message
    assert "set `root`" in message


def test_a_data_set_without_sources_says_to_set_its_root(places):
    assert "set its `root`" in failure(places)


def test_a_file_dropped_in_by_hand_is_used_and_checked(web, places):
    drop = {"by_hand": "the form", "name": "form.zip", "sha256": SHA}
    assert "has to be downloaded by hand" in failure(places, [drop])
    (places.downloads / "form.zip").write_bytes(OTHER)
    assert f"expected sha256 {SHA}" in failure(places, [drop])
    assert (places.downloads / "form.zip.wrong").exists()
    (places.downloads / "Rain (1).zip").write_bytes(DATA)  # the name that the browser chose
    facts = fetch(places, [drop])
    assert tree(places.folder) == FILES
    assert facts["bytes_received"] == 0


def test_two_strange_archives_are_not_guessed_between(places):
    places.downloads.mkdir(parents=True)
    for name in ("one.zip", "two.zip"):
        (places.downloads / name).write_bytes(DATA)
    message = failure(places, [{"by_hand": "the form", "name": "form.zip"}])
    assert "several archives (one.zip, two.zip)" in message


def test_a_file_dropped_in_for_a_dead_address_is_used(web, places):
    failure(places, [at(web.url("/gone.zip"), bytes=len(DATA))])
    (places.downloads / "data.zip").write_bytes(DATA)
    facts = fetch(places, [at(web.url("/gone.zip"), bytes=len(DATA))])
    assert tree(places.folder) == FILES
    assert facts["files"][0]["address"] == "by hand: data.zip"


def test_the_checksum_of_a_dropped_file_is_not_taken_for_that_of_an_address(web, places):
    web.pages["/data.zip"].answers = [(404, {}, b"")]
    failure(places, [at(web.url("/data.zip"))])
    (places.downloads / "data.zip").write_bytes(OTHER)
    fetch(places, [at(web.url("/data.zip"))])
    recorded = yaml.safe_load(places.lock.read_text())["rain"]
    assert recorded.keys() == {"by hand: data.zip"}
    assert recorded["by hand: data.zip"]["sha256"] == hashlib.sha256(OTHER).hexdigest()
    shutil.rmtree(places.folder)
    (places.downloads / "data.zip").write_bytes(DATA[:-1] + b"!")
    facts = fetch(places, [at(web.url("/data.zip"))])  # not what was dropped in before: the address is asked
    assert (places.downloads / "data.zip.wrong").exists()
    assert facts["files"][0]["sha256"] == SHA
    recorded = yaml.safe_load(places.lock.read_text())["rain"]
    assert {address: entry["sha256"] for address, entry in recorded.items()} == {
        "by hand: data.zip": hashlib.sha256(OTHER).hexdigest(),
        web.url("/data.zip"): SHA,
    }


def test_it_waits_for_a_file_by_hand_until_it_has_stopped_growing(places, capsys):
    def browser():
        time.sleep(0.2)
        with (places.downloads / "form.zip").open("wb", buffering=0) as stream:
            for at_byte in range(0, len(DATA), 10_000):
                stream.write(DATA[at_byte : at_byte + 10_000])
                time.sleep(0.02)

    places.downloads.mkdir(parents=True)
    (places.downloads / "form.zip.crdownload").touch()
    threading.Timer(0.8, (places.downloads / "form.zip.crdownload").unlink).start()
    thread = threading.Thread(target=browser)
    thread.start()
    fetch(places, [{"by_hand": "the form", "name": "form.zip"}], wait=1.0)
    thread.join()
    assert tree(places.folder) == FILES
    said = capsys.readouterr().err
    assert f"put the file at: {places.downloads}/form.zip" in said
    assert "waiting for form.zip: 1 minutes left" in said


def test_only_a_person_at_a_terminal_is_waited_for(monkeypatch):
    for stdin, stderr, minutes in ((True, True, 60), (True, False, 0), (False, True, 0)):
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.setattr(sys.stdin, "isatty", lambda answer=stdin: answer, raising=False)
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=stderr: answer, raising=False)
        assert default_wait() == minutes


def test_waiting_ends_with_the_steps_when_nothing_comes(places):
    message = failure(places, [{"by_hand": "the form", "name": "form.zip"}], wait=0.005)
    assert "has to be downloaded by hand and is not there yet" in message


# Google Drive and Hugging Face, played by the local server


@pytest.fixture
def drive(web, monkeypatch):
    """Requests to Google go to the local server, below the name of the host."""
    send = requests.adapters.HTTPAdapter.send

    def local(self, request, **options):
        host = urlsplit(request.url).netloc
        if host.endswith("google.com"):
            request.url = request.url.replace(f"https://{host}", f"{web.root}/{host}")
        assert request.url.startswith(web.root)
        return send(self, request, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", local)
    return web


def attached(body, **more):
    return Page(body, headers={"Content-Disposition": 'attachment; filename="x.zip"'}, **more)


def test_a_small_file_of_google_drive_comes_at_once_and_resumes(drive, places):
    drive.pages[f"/drive.google.com/uc?id={DRIVE_ID}&export=download"] = attached(DATA, stops=[99_999, 30_000])
    facts = fetch(places, [{"gdrive": DRIVE_ID, "name": "data.zip"}])
    assert tree(places.folder) == FILES
    assert ranges(drive) == [30_000]
    assert facts["files"][0]["address"] == f"https://drive.google.com/file/d/{DRIVE_ID}/view"


CONFIRM = f"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">
<input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="{DRIVE_ID}"><input type="hidden" name="confirm" value="t"></form></body></html>"""
QUOTA_PAGE = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""


def test_the_page_about_viruses_is_passed_and_a_killed_transfer_goes_on(drive, places):
    drive.pages["/drive.google.com/uc"] = Page(CONFIRM.encode(), kind="text/html; charset=utf-8", etag="")
    large = "/drive.usercontent.google.com/download"
    drive.pages[large] = attached(DATA, stops=[999_999, 20_000, 30_000, 40_000])  # the first is only looked at
    source = [{"gdrive": DRIVE_ID, "name": "data.zip", "sha256": SHA}]
    assert "40000 of" in failure(places, source)
    fetch(places, source)
    assert ranges(drive)[-1] == 40_000
    assert tree(places.folder) == FILES


def test_the_quota_page_of_google_drive_is_named_and_the_next_source_taken(drive, places, capsys):
    drive.pages["/drive.google.com/uc"] = Page(QUOTA_PAGE.encode(), kind="text/html")
    fetch(places, [{"gdrive": DRIVE_ID, "name": "data.zip"}], [at(drive.url("/data.zip"))])
    said = capsys.readouterr().err
    assert "Too many users have viewed" in said
    assert "try again in a day" in said
    drive.pages["/drive.google.com/uc"] = Page(b"<html>something new</html>", kind="text/html")
    places.folder.rename(places.folder.with_name("moved"))
    (places.downloads / "data.zip").unlink()
    message = failure(places, [{"gdrive": DRIVE_ID, "name": "data.zip"}])
    assert "Google Drive gives no file (FileURLRetrievalError" in message
    assert f"open: https://drive.google.com/file/d/{DRIVE_ID}/view" in message


def folder_view(*files):
    links = "".join(
        f'<a href="https://drive.google.com/file/d/{drive}/view"><div>{name}</div></a>' for drive, name in files
    )
    return Page(f"<html><head><title>Rain</title></head><body>{links}</body></html>".encode(), kind="text/html")


def test_a_folder_of_google_drive_is_fetched_file_by_file(drive, places):
    second = DRIVE_ID[:-1] + "6"
    drive.pages["/drive.google.com/embeddedfolderview"] = folder_view((DRIVE_ID, "part.zip"), (second, "extra.png"))
    drive.pages[f"/drive.google.com/uc?id={DRIVE_ID}&export=download"] = attached(DATA)
    drive.pages[f"/drive.google.com/uc?id={second}&export=download"] = Page(answers=[(404, {}, b"")])
    source = [{"gdrive_folder": "1FolderFolderFolderFolderFolder", "name": "rain", "into": "sub"}]
    message = failure(places, source)
    assert f"https://drive.google.com/file/d/{second}/view: the server answered 404" in message
    assert f"put the file at: {places.downloads}/rain.zip" in message
    drive.pages[f"/drive.google.com/uc?id={second}&export=download"] = attached(b"\x89PNG")
    asked = len(drive.log)
    fetch(places, source)
    assert tree(places.folder) == {f"sub/{name}": data for name, data in {**FILES, "extra.png": b"\x89PNG"}.items()}
    assert not any(DRIVE_ID in path for _, path, _ in drive.log[asked:])  # the first file was there


def test_the_zip_of_a_drive_folder_may_be_dropped_in_with_other_bytes_each_time(drive, places):
    source = [{"gdrive_folder": "1FolderFolderFolderFolderFolder", "name": "rain"}]
    places.downloads.mkdir(parents=True)
    for data in (DATA, zip_of(FILES)):
        (places.downloads / "rain.zip").write_bytes(data)
        facts = fetch(places, source)
        assert facts["files"][0]["address"] == "by hand: rain.zip"
        assert tree(places.folder) == FILES
        shutil.rmtree(places.folder)
    assert not places.lock.exists()
    old = Recorded(name="rain.zip", sha256="0" * 64, bytes=1, recorded="2025-01-01")
    address = "https://drive.google.com/drive/folders/1FolderFolderFolderFolderFolder"
    record_checksums(places.lock, places.lock.with_name(".guard"), "rain", {address: old})  # as was done once
    fetch(places, source)
    assert tree(places.folder) == FILES
    assert drive.log == []


def test_other_bytes_in_place_of_the_zip_of_a_drive_folder_are_not_fetched_as_a_file(drive, places):
    places.downloads.mkdir(parents=True)
    (places.downloads / "rain.zip").write_bytes(b"<html>")
    message = failure(places, [{"gdrive_folder": "1FolderFolderFolderFolderFolder", "name": "rain"}])
    assert "not an archive, although it is called rain.zip" in message
    assert drive.log == []


def test_a_drive_folder_that_is_not_public_is_reported(drive, places):
    message = failure(places, [{"gdrive_folder": "1FolderFolderFolderFolderFolder", "name": "rain"}])
    assert "the folder cannot be listed (DownloadError" in message


def test_a_file_of_hugging_face_is_resumed_and_checked_against_the_hub(web, places, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", web.root)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    resolve = "/datasets/someone/rain/resolve/main/sub/data.zip"
    facts = {"Location": "/cdn/data.zip", "X-Linked-ETag": f'"{SHA}"', "X-Repo-Commit": "0" * 40}
    web.pages[resolve] = Page(answers=[(302, facts, b"")] * 9)
    web.pages["/cdn/data.zip"] = Page(DATA, stops=[30_000])
    source = [{"huggingface": {"repo": "someone/rain", "file": "sub/data.zip"}, "name": "data.zip"}]
    fetch(places, source)
    assert tree(places.folder) == FILES
    assert 30_000 in ranges(web)
    assert web.log[0][2]["authorization"] == "Bearer hf_secret"
    places.folder.rename(places.folder.with_name("moved"))
    (places.downloads / "data.zip").unlink()
    places.lock.unlink()
    web.pages["/cdn/data.zip"] = Page(OTHER)
    assert f"expected sha256 {SHA} (Hugging Face)" in failure(places, source)
    web.pages[resolve] = Page(answers=[(401, {}, b"")])
    assert "401 Unauthorized: the file asks for an account" in failure(places, source)


def test_progress_is_lines_in_a_log_and_a_bar_on_a_terminal(web, places, monkeypatch, capsys):
    monkeypatch.setattr(streams, "LINE_SECONDS", -1)
    web.pages["/data.zip"] = Page(zip_of({"zeros.png": bytes(3_000_000)}, zipfile.ZIP_STORED))
    fetch(places, [at(web.url("/data.zip"))])
    said = capsys.readouterr().err.splitlines()
    assert "fetching data.zip: 3 of 3 MB" in said
    assert any(line.startswith("checking data.zip") for line in said)
    assert "unpacking data.zip: 3 of 3 MB" in said
    places.folder.rename(places.folder.with_name("moved"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fetch(places, [at(web.url("/data.zip"))])
    assert "unpacking data.zip" in (said := capsys.readouterr().err)
    assert "unpacking data.zip: 3 of 3 MB" not in said


def test_a_file_where_the_folder_should_be_is_an_error(web, places):
    places.folder.parent.mkdir(parents=True)
    places.folder.symlink_to("nowhere")
    assert "expected a folder, found a file or a broken link" in failure(places, [at(web.url("/data.zip"))])


# Full disks and kills


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB and a function that enlarges it; None where none can be mounted."""
    folder = tmp_path / "resources"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    yield ((lambda: subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)) if mounted else None)
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_after(monkeypatch, total, module=transfer):
    """Stand-in for a small disk where nothing can be mounted: writes fail after `total` bytes."""
    real, left = streams.write_all, [total]

    class Stream:
        def __init__(self, stream):
            self.stream = stream

        def write(self, data):
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            count = min(len(data), left[0])
            left[0] -= count
            return self.stream.write(data[:count])

    monkeypatch.setattr(module, "write_all", lambda stream, data, target: real(Stream(stream), data, target))

    def enlarge():
        left[0] = 10**9

    return enlarge


def test_after_a_full_disk_the_next_run_goes_on(web, places, small_disk, monkeypatch):
    enlarge = small_disk or full_after(monkeypatch, 50_000)
    web.pages["/data.zip"].length = False  # nobody can predict the size
    message = failure(places, [at(web.url("/data.zip"), sha256=SHA)])
    assert "the disk is full" in message
    assert "run the same command again" in message
    kept = parts(places)[0].stat().st_size
    assert 0 < kept < len(DATA)
    enlarge()
    facts = fetch(places, [at(web.url("/data.zip"), sha256=SHA)])
    assert ranges(web) == [kept]
    assert facts["bytes_received_twice"] == 0
    assert tree(places.folder) == FILES


def test_after_a_disk_that_fills_up_while_unpacking_nothing_is_fetched_again(web, places, monkeypatch):
    web.pages["/data.tar.gz"] = Page(gzip.compress(tar_of(FILES)))
    files = [{"url": web.url("/data.tar.gz"), "name": "data.tar.gz"}]
    enlarge = full_after(monkeypatch, 50_000, archive_rules)
    message = failure(places, files)
    assert "the disk is full" in message
    assert "sources tried" not in message  # no other source would help
    enlarge()
    sent = web.sent
    fetch(places, files)
    assert web.sent == sent
    assert tree(places.folder) == FILES


def test_a_file_that_cannot_fit_is_not_begun(web, places, monkeypatch):
    real = streams.shutil.disk_usage
    monkeypatch.setattr(streams.shutil, "disk_usage", lambda path: real(path)._replace(free=50_000))
    message = failure(places, [at(web.url("/data.zip"))])
    assert "0 MB are needed for data.zip, 0 MB are free" in message
    assert "Free disk space" in message
    assert parts(places) == []


def test_ten_kills_cost_less_than_a_tenth_of_the_file(web, places, capsys):
    draw = np.random.default_rng(0)
    files = {f"clean/{n}.png": draw.bytes(80_000) for n in range(300)}
    data = zip_of(files, zipfile.ZIP_STORED)
    web.pages["/big.zip"] = Page(data, rate=10_000_000)
    settings = entry([{"url": web.url("/big.zip"), "name": "big.zip", "sha256": hashlib.sha256(data).hexdigest()}])
    command = script(places, settings.model_dump_json())
    points = draw.uniform(0.1, 1.0, 8)
    points *= 0.9 * len(data) / points.sum()
    stages = [lambda start, point=point: web.sent - start >= point for point in points]
    stages += [lambda _: (places.downloads / "big.zip").exists(), lambda _: places.unpacking.exists()]
    killed = 0
    for reached in stages:
        start = web.sent
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not reached(start):
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert killed >= 8  # the last two may come too late on a busy machine
    assert tree(places.folder) == files
    assert not places.unpacking.exists()
    twice = web.sent - len(data)
    with capsys.disabled():
        print(f"\n10 kills: {twice} of {len(data)} bytes sent twice ({100 * twice / len(data):.1f} %)")
    assert 0 <= twice < 0.1 * len(data)


def script(places, text):
    """The command that fetches the data set rain, with its entry in a file."""
    file = places.lock.with_name("entry.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    command = [sys.executable, str(SCRIPT), "rain", "--entry", file, "--folder", places.folder]
    return [*command, "--downloads", places.downloads, "--lock", places.lock]


def test_the_script_prints_one_message_and_exits_with_2(web, places):
    done = subprocess.run(script(places, "{"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "entry.yaml: not valid YAML" in done.stderr
    command = script(places, entry([at(web.url("/gone.zip"))]).model_dump_json())
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "airpipe: error: data set 'rain' could not be fetched" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_script_leaves_the_marker_that_snakemake_expects(web, places):
    command = script(places, entry([at(web.url("/data.zip"))]).model_dump_json())
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(places.facts.read_text())["source"] == "page 1"
    places.facts.unlink()  # as Snakemake does before it runs a rule again
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(places.facts.read_text())["source"] == "the folder was there"


def test_urllib3_is_declared_with_the_version_that_caps_retry_after():
    project = tomllib.loads((SCRIPT.parents[1] / "pyproject.toml").read_text())["project"]
    declared = {r.name: r.specifier for r in map(Requirement, project["optional-dependencies"]["pipeline"])}
    assert "retry_after_max" in inspect.signature(transfer.Retry).parameters
    assert not declared["urllib3"].contains("2.6.2")  # the last one without it
    assert declared["urllib3"].contains("2.6.3")


# Answers and archives that are none


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("data.zip", zip_of({}), "data.zip: the zip archive holds no file"),
        ("data.tar.gz", gzip.compress(tar_of({})), "data.tar.gz: the tar.gz archive holds no file"),
        ("data.zip", zip_of({"readme.txt": b"x", "a/._1.png": b"y"}), "none of the 2 unpacked files is an image"),
    ],
    ids=["an empty zip", "an empty tar", "no image"],  # workers have to find the same names; bytes hold the time
)
def test_an_archive_without_an_image_is_no_data_set_and_the_next_source_is_taken(web, places, capsys, name, data, said):
    web.pages["/bad"] = Page(data)
    bad = [{"url": web.url("/bad"), "name": name}]
    message = failure(places, bad)
    assert said in message and not places.unpacking.exists() and not places.lock.exists()
    fetch(places, bad, [{"url": web.url("/data.zip"), "name": "good.zip"}])
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("source 1 of rain does not work")]
    assert len(told) == 2 and all(said in line for line in told)
    assert tree(places.folder) == FILES


def test_a_refused_archive_leaves_no_half_unpacked_folder(web, places):
    web.pages["/data.zip"] = Page(zip_of({"clean/1.png": b"x", "../evil.png": b"y"}))
    assert "the path leads out of the folder" in failure(places, [at(web.url("/data.zip"))])
    web.pages["/two.zip"] = Page(zip_of({"clean/1.png": b"other"}))
    web.pages["/one.zip"] = Page(DATA)
    message = failure(places, [{"url": web.url(f"/{name}"), "name": name} for name in ("one.zip", "two.zip")])
    assert "clean/1.png" in message and "give one of them `into`" in message
    assert not places.unpacking.exists() and [path.name for path in places.folder.parent.iterdir()] == []


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content-Length": "many"}, "announced 'many' as length. Expected one number of bytes"),
        ({"Content-Length": "-5"}, "announced '-5' as length"),
        ({"Content-Length": "\xb2"}, "announced '\xb2' as length"),
        ({"Content-Length": "9" * 30}, "announced '999999999999999999999999999999' as length"),
        (
            {"Content-Length": "12, 13"},
            "answer cannot be understood (Content-Length contained multiple unmatching values",
        ),
        ({"Content-Encoding": "gzip"}, "sent the file encoded (gzip), which nobody asked for"),
        ({"Content-Encoding": "br, gzip"}, "sent the file encoded (br, gzip)"),
    ],
)
def test_lengths_that_are_none_and_encodings_are_told_at_once_and_the_next_source_taken(
    web, places, capsys, headers, said
):
    web.pages["/bad.zip"] = Page(DATA, headers=headers, length=False)
    fetch(places, [at(web.url("/bad.zip"))], [at(web.url("/data.zip"))])
    (told,) = (line for line in capsys.readouterr().err.splitlines() if "does not work" in line)
    assert said in told and "times" not in told
    assert [path for _, path, _ in web.log] == ["/bad.zip", "/data.zip"]
    assert tree(places.folder) == FILES and not parts(places)


def test_chunks_of_another_length_than_announced_are_refused(web, places):
    web.pages["/data.zip"] = Page(DATA, chunked=True, headers={"Content-Length": str(len(DATA) + 1)})
    said = f"announced {len(DATA) + 1} bytes and sent chunks of another length"
    assert said in failure(places, [at(web.url("/data.zip"))]) and not parts(places)
    web.pages["/data.zip"] = Page(DATA, chunked=True, headers={"Content-Length": str(len(DATA))})
    fetch(places, [at(web.url("/data.zip"))])
    assert tree(places.folder) == FILES


def test_the_encoding_of_a_file_that_is_compressed_itself_is_its_own(web, places):
    packed = gzip.compress(tar_of(FILES))
    web.pages["/data.tar.gz"] = Page(packed, headers={"Content-Encoding": "x-gzip"})
    fetch(places, [{"url": web.url("/data.tar.gz"), "name": "data.tar.gz"}])
    assert tree(places.folder) == FILES
