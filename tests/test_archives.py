import bz2
import gzip
import io
import lzma
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from airpipe.data.archive_rules import BadArchive, Limits
from airpipe.data.archives import archive_kind, unpack
from airpipe.errors import AirpipeError

TREE = {
    "clean/1.png": b"\x89PNG" + bytes(range(256)) * 40,
    "clean/2.png": b"",
    "degraded/a/b/ü ß.txt": b"Regen\n",
    "readme.txt": b"text " * 1000,
}

needs_bsdtar = pytest.mark.skipif(
    shutil.which("bsdtar") is None and not os.environ.get("AIRPIPE_REQUIRE_SLURM"),
    reason="bsdtar is missing (apt install libarchive-tools); CI has it",
)


@contextmanager
def seconds(limit):
    """Fail when the block takes longer than `limit` seconds."""

    def ring(*_):
        raise TimeoutError(f"longer than {limit} s")  # an OSError: unpack would call it damage, the assert below not

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(limit)
    try:
        yield
    finally:
        left = signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert left > 0, f"longer than {limit} s"


def zip_of(files, method=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as bundle:
        for name, data in files.items():
            bundle.writestr(name, data)
    return stream.getvalue()


def tar_of(files, *special, kind=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as bundle:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            bundle.addfile(info, io.BytesIO(data))
        for info, data in special:
            info.size = len(data)
            bundle.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def seven(files, folder, archive):
    source = folder / "source"
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    subprocess.run(["bsdtar", "--format", "7zip", "-cf", archive, "-C", source, "."], check=True)
    return archive


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spread(folder):
    """Every path below a folder with its kind, to see what was written outside the target."""
    return sorted((str(path), path.lstat().st_mode, path.lstat().st_size) for path in folder.rglob("*"))


def refusal(tmp_path, data, limits=None):
    """Unpack bytes that have to be refused; returns the message. Nothing may appear outside the target."""
    world = tmp_path / "world"
    shutil.rmtree(world, ignore_errors=True)
    target = world / "parent" / "target"
    target.mkdir(parents=True)
    archive = world / "archive.bin"
    archive.write_bytes(data)
    before = spread(world)
    with seconds(10), pytest.raises(BadArchive) as caught:
        unpack(archive, target, limits)
    after = [entry for entry in spread(world) if not entry[0].startswith(f"{target}/")]
    assert [entry[0] for entry in after] == [entry[0] for entry in before]
    inside = [path.lstat().st_mode for path in target.rglob("*")]
    assert all(stat.S_ISREG(mode) or stat.S_ISDIR(mode) for mode in inside)
    return str(caught.value)


FLAVOURS = {
    "zip": lambda: zip_of(TREE),
    "stored zip": lambda: zip_of(TREE, zipfile.ZIP_STORED),
    "tar": lambda: tar_of(TREE),
    "gnu tar": lambda: tar_of(TREE, kind=tarfile.GNU_FORMAT),
    "tar.gz": lambda: gzip.compress(tar_of(TREE), mtime=0),
    "tar.bz2": lambda: bz2.compress(tar_of(TREE)),
    "tar.xz": lambda: lzma.compress(tar_of(TREE)),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_an_archive_unpacks_to_the_same_bytes(tmp_path, flavour):
    archive = tmp_path / "misleading.name"
    archive.write_bytes(FLAVOURS[flavour]())
    assert unpack(archive, tmp_path / "out") == 4
    assert tree(tmp_path / "out") == TREE


@needs_bsdtar
def test_a_7z_archive_unpacks_to_the_same_bytes_with_every_tool_on_path(tmp_path, monkeypatch):
    archive = seven(TREE, tmp_path, tmp_path / "a.7z")
    assert archive_kind(archive) == "7z"
    tools = [name for name in ("bsdtar", "7zz", "7z", "7za") if shutil.which(name)]
    assert "bsdtar" in tools
    for tool in tools:
        monkeypatch.setattr("airpipe.data.archive_tools.TOOLS", (tool,))
        out = tmp_path / f"out-{tool}"
        assert unpack(archive, out) == 4
        assert tree(out) == TREE
        assert sorted(path.name for path in out.iterdir()) == ["clean", "degraded", "readme.txt"]


@needs_bsdtar
def test_a_7z_archive_with_a_link_damage_or_a_bomb_is_refused(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to("/etc/passwd")
    link = seven({"a": b"1"}, tmp_path, tmp_path / "link.7z").read_bytes()
    (tmp_path / "source" / "link").unlink()
    bomb = seven({"zeros": bytes(20_000_000)}, tmp_path, tmp_path / "bomb.7z").read_bytes()
    for tool in [name for name in ("bsdtar", "7zz", "7z", "7za") if shutil.which(name)]:
        monkeypatch.setattr("airpipe.data.archive_tools.TOOLS", (tool,))
        assert "'./link'" in (message := refusal(tmp_path, link)) or "'link'" in message
        assert "link or a special file" in message
        assert "decompression bomb" in refusal(tmp_path, bomb, Limits(slack=1_000_000))
        broken = bytearray(bomb)
        broken[len(bomb) // 2] ^= 0xFF
        assert "damaged" in refusal(tmp_path, bytes(broken))
        assert "damaged" in refusal(tmp_path, bomb[:-20])


def test_without_a_tool_a_rar_archive_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("airpipe.data.archive_tools.TOOLS", ("no-such-tool",))
    message = refusal(tmp_path, b"Rar!\x1a\x07\x01\x00" + bytes(100))
    assert "apt install libarchive-tools" in message
    assert "set the data set's root" in message


def test_a_web_page_is_not_an_archive(tmp_path):
    assert "not an archive" in refusal(tmp_path, b"<!DOCTYPE html><html>quota exceeded</html>")
    assert "not an archive" in refusal(tmp_path, b"")


BAD_NAMES = {
    "../evil": "leads out",
    "a/../../evil": "leads out",
    "/tmp/evil": "absolute",
    "C:/evil": "absolute",
    "C:\\evil": "absolute",
    "..\\evil": "backslash",
    "a\nb": "control character",
    "x" * 300: "too long",
    "/".join(["d"] * 60): "too deep",
    "/".join(["d" * 50] * 30): "too long",
}


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:12]))
def test_a_dangerous_name_refuses_the_whole_archive(tmp_path, name):
    for make in (zip_of, tar_of, lambda files: gzip.compress(tar_of(files))):
        message = refusal(tmp_path, make({"fine.txt": b"1", name: b"evil"}))
        assert BAD_NAMES[name] in message
        assert repr(name[:100]) in message


def test_zip_and_plain_tar_are_refused_before_anything_is_written(tmp_path):
    for data in (zip_of({"fine.txt": b"1", "../evil": b"2"}), tar_of({"fine.txt": b"1", "../evil": b"2"})):
        refusal(tmp_path, data)
        assert list((tmp_path / "world/parent/target").iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_special_files_in_a_tar_are_refused(tmp_path, kind):
    data = tar_of({"fine.txt": b"1"}, special("odd", kind, "../.."), (tarfile.TarInfo("odd/evil"), b"through it"))
    for packed in (data, gzip.compress(data)):
        message = refusal(tmp_path, packed)
        assert "'odd': it is a link or a special file" in message


def test_a_link_in_a_zip_is_refused(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as bundle:
        link = zipfile.ZipInfo("odd")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        bundle.writestr(link, "../..")
        bundle.writestr("odd/evil", b"through it")
    assert "'odd': it is a link" in refusal(tmp_path, stream.getvalue())


def test_two_members_of_one_path_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as bundle:
            bundle.writestr("a.txt", b"1")
            bundle.writestr("a.txt", b"2")
    assert "two members" in refusal(tmp_path, stream.getvalue())
    twice = tar_of({"a.txt": b"1"}, (tarfile.TarInfo("./a.txt"), b"2"))
    assert "two members" in refusal(tmp_path, twice)
    assert "is a file" in refusal(tmp_path, tar_of({"a": b"1", "a/b": b"2"}))


def test_bombs_are_refused_by_their_listing_and_by_what_they_write(tmp_path):
    small = Limits(slack=1_000_000)
    zeros = bytes(30_000_000)
    for data in (zip_of({"z": zeros}), gzip.compress(tar_of({"z": zeros})), lzma.compress(tar_of({"z": zeros}))):
        assert "decompression bomb" in refusal(tmp_path, data, small)
        written = sum(path.stat().st_size for path in (tmp_path / "world/parent/target").rglob("*"))
        assert written <= small.slack + 100 * len(data)
    assert "more than 3 members" in refusal(tmp_path, zip_of({str(n): b"" for n in range(9)}), Limits(max_members=3))


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    honest = bytearray(zip_of({"z": bytes(1_000_000)}))
    for offset, where in ((honest.find(b"PK\x03\x04"), 22), (honest.find(b"PK\x01\x02"), 24)):
        struct.pack_into("<I", honest, offset + where, 1000)
    message = refusal(tmp_path, bytes(honest))
    assert "damaged" in message or "claims" in message
    assert sum(path.stat().st_size for path in (tmp_path / "world/parent/target").rglob("*")) <= 1000


UNPACK_IN_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from airpipe.data.archives import unpack
from airpipe.errors import AirpipeError
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, used + 60_000_000))
try:
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))
except AirpipeError as error:
    print(error)
"""


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_that_unpack_all_at_once_are_refused_before_they_fill_the_memory(tmp_path, method):
    data = bytearray(zip_of({"z": bytes(100_000_000)}, method))
    for mark, where in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.find(mark) + where, 1000)  # its listing would refuse the true size
    (tmp_path / "a.zip").write_bytes(data)
    assert len(data) < 100_000
    command = [sys.executable, "-c", UNPACK_IN_LITTLE_MEMORY, tmp_path / "a.zip", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    name = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}[method]
    assert f"'z': it is compressed with {name}; expected stored or deflate" in done.stdout, done.stderr
    assert "unpack it by hand" in done.stdout


def test_a_zip_member_of_an_unknown_method_is_refused(tmp_path):
    data = bytearray(zip_of({"z": b"1"}))
    for mark, where in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", data, data.find(mark) + where, 77)
    assert "it is compressed with method 77" in refusal(tmp_path, bytes(data))


def test_zip_members_that_share_bytes_are_refused(tmp_path):
    data = bytearray(zip_of({"a": os.urandom(1000), "b": os.urandom(1000)}, zipfile.ZIP_STORED))
    second = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 1)
    struct.pack_into("<I", data, second + 42, 0)  # the second entry points at the first one's bytes
    assert "overlaps" in refusal(tmp_path, bytes(data))


def test_an_encrypted_zip_is_refused(tmp_path):
    data = bytearray(zip_of({"a": b"secret"}))
    for offset, where in ((data.find(b"PK\x03\x04"), 6), (data.find(b"PK\x01\x02"), 8)):
        data[offset + where] |= 1
    assert "it is encrypted" in refusal(tmp_path, bytes(data))


def test_names_that_are_no_text_are_refused(tmp_path):
    plain = tar_of({"bad?.txt": b"1"}, kind=tarfile.GNU_FORMAT)
    header = bytearray(plain[:512].replace(b"bad?", b"bad\xff"))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert "not valid text" in refusal(tmp_path, bytes(header) + plain[512:])
    data = zip_of({"bäd.txt": b"1"}).replace("ä".encode(), b"\xff\xfe")
    assert "UnicodeDecodeError" in refusal(tmp_path, data)


def test_a_tar_header_that_claims_gigabytes_of_name_is_refused(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8_000_000_000
    assert "damaged" in refusal(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))


@pytest.mark.parametrize(
    ("pack", "kind", "reason"),
    [
        (bytes, "tar", "unexpected end of data|end mark is missing"),
        (gzip.compress, "tar.gz", "ended before the end-of-stream marker"),
        (bz2.compress, "tar.bz2", "ended before the end-of-stream marker"),
        (lzma.compress, "tar.xz", "ended before the end-of-stream marker"),
    ],
)
def test_a_tar_that_was_cut_short_is_refused_wherever_it_was_cut(tmp_path, pack, kind, reason):
    data = pack(tar_of({"a": b"1" * 700, "b": b"2" * 700}))
    ends = sorted({512, 1024, 1536, 2048, len(data) // 3, len(data) // 2, len(data) - 5})
    for end in [end for end in ends if end < len(data) - 4 and not (pack is bytes and end > 3584)]:
        message = refusal(tmp_path, data[:end])
        assert f"{kind} archive is damaged" in message
        assert re.search(reason, message), message


def test_modes_of_the_archive_are_not_taken_over(tmp_path):
    info = tarfile.TarInfo("tool")
    info.mode = 0o6777
    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of({}, (info, b"#!")))
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/tool").stat().st_mode & 0o7111 == 0


def test_a_second_archive_may_bring_the_same_file_but_not_another_one(tmp_path):
    for name, text in (("a.zip", b"licence"), ("b.zip", b"licence"), ("c.zip", b"License")):
        (tmp_path / name).write_bytes(zip_of({"LICENSE": text, f"{name}.txt": b"1"}))
    unpack(tmp_path / "a.zip", tmp_path / "out")
    unpack(tmp_path / "b.zip", tmp_path / "out")
    with pytest.raises(BadArchive, match="give one of them `into`"):
        unpack(tmp_path / "c.zip", tmp_path / "out")
    assert (tmp_path / "out/LICENSE").read_bytes() == b"licence"


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize(
    ("later", "wanted"), [("a/b.png/c.png", "a/b.png"), ("a/b.png/c/d.png", "a/b.png"), ("a", "a")]
)
def test_a_folder_where_an_earlier_archive_has_a_file_is_told_as_that(tmp_path, make, later, wanted):
    out = tmp_path / "out"
    (tmp_path / "first").write_bytes(make({"a/b.png": b"1"}))
    (tmp_path / "second").write_bytes(make({later: b"2"}))
    unpack(tmp_path / "first", out)
    with pytest.raises(BadArchive) as caught:
        unpack(tmp_path / "second", out)
    assert f"{out / wanted}" in str(caught.value)
    assert "is in the way: a file where a folder is wanted, or a folder where a file is wanted" in str(caught.value)
    assert "Free disk space" not in str(caught.value)
    assert tree(out) == {"a/b.png": b"1"}
    with pytest.raises(BadArchive, match="is in the way"):
        unpack(tmp_path / "second", out / "a/b.png")  # `into` the file


@needs_bsdtar
def test_a_7z_archive_over_a_file_of_an_earlier_archive_is_told_as_that(tmp_path):
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/b.png").write_bytes(b"1")
    with pytest.raises(BadArchive, match="out/a/b.png is in the way"):
        unpack(seven({"a/b.png/c.png": b"2"}, tmp_path, tmp_path / "a.7z"), tmp_path / "out")


def mutants(number):
    """Seeded damage to valid archives: flipped bytes, cuts, insertions, swapped stretches."""
    originals = [make() for make in FLAVOURS.values()]
    for seed in range(number):
        draw = np.random.default_rng(seed)
        data = bytearray(originals[seed % len(originals)])
        for _ in range(draw.integers(1, 9)):
            at, way = int(draw.integers(len(data))), draw.integers(4)
            if way == 0:
                data[at] = int(draw.integers(256))
            elif way == 1:
                data[at : at + 4] = draw.bytes(4)
            elif way == 2:
                del data[max(at, 1) : at + int(draw.integers(1, 600))]
            else:
                data[at:at] = draw.bytes(int(draw.integers(1, 600)))
        yield seed, bytes(data)


def test_of_200_damaged_archives_none_escapes_hangs_or_raises_anything_else(tmp_path):
    refused = 0
    world = tmp_path / "world"
    for seed, data in mutants(200):
        target = world / "parent" / "target"
        target.mkdir(parents=True)
        archive = world / "archive.bin"
        archive.write_bytes(data)
        with seconds(10):
            try:
                unpack(archive, target)
            except AirpipeError as error:
                refused += 1
                assert str(archive) in str(error), seed
        outside = [str(path) for path in world.rglob("*") if target not in path.parents]
        assert sorted(outside) == sorted(map(str, (archive, target, target.parent))), seed
        assert all(stat.S_IFMT(path.lstat().st_mode) in (stat.S_IFREG, stat.S_IFDIR) for path in target.rglob("*"))
        shutil.rmtree(world)
    assert refused > 120
