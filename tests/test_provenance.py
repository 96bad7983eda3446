"""A full disk is named."""

from collections import namedtuple

from airpipe import provenance
from airpipe.provenance import full_disks

Usage = namedtuple("Usage", "total used free")


def test_the_folder_whose_disk_is_full_is_named_with_its_free_space(tmp_path, monkeypatch):
    free = {tmp_path: 12_000_000, tmp_path / "tmp": 2_000_000_000}
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(provenance.shutil, "disk_usage", lambda place: Usage(0, 0, free[place]))
    places = [str(tmp_path / "results"), str(tmp_path / "tmp")]  # the folder above counts
    assert full_disks(places).startswith(f"A disk may be full: 12 MB free for {places[0]}. A full disk leaves logs")
    assert "/tmp." not in full_disks(places)
    free[tmp_path / "tmp"] = 999_999_999
    assert f"12 MB free for {places[0]}, 1,000 MB free for {places[1]}." in full_disks(places)
    assert full_disks(places, 12_000_000) == ""
    free.update(dict.fromkeys(free, 1_000_000_000))
    assert full_disks(places) == ""
