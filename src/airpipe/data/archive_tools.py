"""Unpacking of rar and 7z by a tool on PATH: list and check first, extract beside, verify, then move into place."""

import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from airpipe.data.archive_rules import BadArchive, DamagedArchive, Limits, Listing, too_much
from airpipe.data.streams import Meter, enough_space
from airpipe.provenance import sha256_file

TOOLS = ("bsdtar", "7zz", "7z", "7za")
"""Programs that are tried, in this order."""
POLL_SECONDS = 0.2
"""Least time between two looks at what a tool has written."""
STALL_SECONDS = 600.0
"""Longest time without a written byte; then the tool is stopped."""
LIST_SECONDS = 1800.0
"""Longest time that listing an archive may take."""
BSDTAR_LINE = re.compile(r"(\S)\S*\s+\d+\s+\S+\s+\S+\s+(\d+)\s+\w+\s+\d+\s+[\d:]+ .*")
"""A line of bsdtar's long listing: kind, size; the name is compared with the short listing."""

Member = tuple[str, int, bool]
"""Name of a member, its size in bytes, whether it is a folder."""


def unpack_with_tool(archive: Path, folder: Path, limits: Limits, kind: str) -> int:
    """Unpack a rar or 7z archive and return the number of files; see `airpipe.data.archives.unpack`.

    Raises:
        BadArchive: no tool is there, none of them can read the archive, or it is unsafe or too large.
    """
    tools = [path for name in TOOLS if (path := shutil.which(name))]
    if not tools:
        raise BadArchive(
            f"{archive}: a {kind} archive needs bsdtar or 7z, and neither is on PATH. Install one "
            "(apt install libarchive-tools), or unpack the archive by hand and set the data set's root to that folder"
        )
    problems = []
    for tool in tools:
        listing = Listing(archive, limits)
        try:
            for name, size, is_folder in _list(tool, archive, listing):
                listing.accept(name, size, is_folder)
            enough_space(folder / archive.name, listing.size)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking") as scratch:
                _extract(tool, archive, Path(scratch), listing)
                return _move(Path(scratch), folder, listing)
        except _ToolFailed as error:
            problems.append(f"{Path(tool).name}: {error}")
    raise DamagedArchive(
        f"{archive}: the {kind} archive is damaged, encrypted or of an unsupported kind ({'; '.join(problems)})"
    )


class _ToolFailed(Exception):
    """This tool cannot read the archive; another one may."""


def _run(command: list[str]) -> str:
    # the form of a listing depends on language and time zone
    environment = os.environ | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIST_SECONDS,
            env=environment,
            start_new_session=True,  # no terminal: a tool that asks for a password fails
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _ToolFailed(f"{type(error).__name__}") from None
    text = done.stdout.decode("utf-8", "surrogateescape")
    if done.returncode:
        raise _ToolFailed(_last_line(done.stderr) or _last_line(done.stdout) or f"exit status {done.returncode}")
    return text


def _last_line(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").split())[-200:]


def _list(tool: str, archive: Path, listing: Listing) -> Iterator[Member]:
    members: Callable[[str, Path, Listing], Iterator[Member]]
    members = _list_bsdtar if Path(tool).name == "bsdtar" else _list_7z
    return members(tool, archive, listing)


def _list_bsdtar(tool: str, archive: Path, listing: Listing) -> Iterator[Member]:
    """bsdtar writes unusual letters of a name with a backslash, so that a line is always a member."""
    names = _run([tool, "-tf", str(archive)]).splitlines()
    lines = _run([tool, "-tvf", str(archive)]).splitlines()
    if len(names) != len(lines):
        raise _ToolFailed("its listings differ")
    for name, line in zip(names, lines, strict=True):
        match = BSDTAR_LINE.fullmatch(line)
        if not match or not line.endswith(name) or match[1] not in "-d":
            raise listing.refused(name, "it is a link or a special file")
        yield name, int(match[2]), match[1] == "d"


def _list_7z(tool: str, archive: Path, listing: Listing) -> Iterator[Member]:
    text = _run([tool, "l", "-slt", "-sccUTF-8", "-p-", "--", str(archive)])
    if "\n----------\n" not in text:
        raise _ToolFailed("its listing has an unknown form")
    for block in text.split("\n----------\n", 1)[1].split("\n\n"):
        facts = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        if "Path" not in facts:
            continue
        if facts.get("Encrypted") == "+":
            raise listing.refused(facts["Path"], "it is encrypted")
        attributes = facts.get("Attributes", "")
        unix = re.search(r"(?:^| )([-dlbcps])[-rwxsStT]{9}$", attributes)
        if facts.get("Symbolic Link") or facts.get("Hard Link") or (unix and unix[1] not in "-d"):
            raise listing.refused(facts["Path"], "it is a link or a special file")
        is_folder = facts.get("Folder") == "+" or attributes.startswith("D")
        yield facts["Path"], int(facts.get("Size") or 0), is_folder


def _extract(tool: str, archive: Path, scratch: Path, listing: Listing) -> None:
    """Run the tool; stop it when it writes too much or nothing for long."""
    command = [tool, "-x", "-m", "--no-same-owner", "--no-same-permissions", "-f", str(archive), "-C", str(scratch)]
    if Path(tool).name != "bsdtar":
        command = [tool, "x", "-y", "-bd", "-p-", f"-o{scratch}", "--", str(archive)]
    allowed = listing.limits.bytes_for(archive)
    with (
        tempfile.TemporaryFile() as said,
        Meter(f"unpacking {archive.name}", listing.size) as meter,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=scratch, start_new_session=True
        ) as process,
    ):
        try:
            moved = time.monotonic()
            while process.poll() is None:
                began = time.monotonic()
                size = _size(scratch)
                if size > allowed:
                    raise listing.refused(archive.name, too_much(archive, listing.limits))
                if size > meter.done:
                    moved = began
                    meter.add(size - meter.done)
                if began - moved > STALL_SECONDS:
                    raise _ToolFailed(f"it wrote nothing for {STALL_SECONDS:.0f} s")
                # a folder of many files is slow to look at: most of the time is left to the tool
                time.sleep(max(POLL_SECONDS, 5 * (time.monotonic() - began)))
        finally:
            process.kill()
        if process.wait():
            said.seek(0)
            raise _ToolFailed(_last_line(said.read()) or f"exit status {process.returncode}")


def _size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # the tool may rename a file in between
                total += (Path(where) / name).lstat().st_size
    return total


def _move(scratch: Path, folder: Path, listing: Listing) -> int:
    """Check what the tool wrote, then rename it into the folder."""
    files = []
    for where, folders, names in os.walk(scratch):
        for path in (Path(where) / name for name in (*folders, *names)):
            facts = path.lstat()
            regular = stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
            if not (regular or stat.S_ISDIR(facts.st_mode)):
                raise listing.refused(str(path.relative_to(scratch)), "it is a link or a special file")
            path.chmod(0o644 if regular else 0o755)
            (folder / path.relative_to(scratch)).mkdir(exist_ok=True) if not regular else files.append(path)
    if len(files) != len(listing.files):
        raise _ToolFailed(f"it wrote {len(files)} of {len(listing.files)} files")
    if _size(scratch) > listing.limits.bytes_for(listing.archive):
        raise listing.refused(listing.archive.name, too_much(listing.archive, listing.limits))
    for path in files:
        target = folder / path.relative_to(scratch)
        if target.exists() and sha256_file(target) != sha256_file(path):
            raise listing.refused(
                str(path.relative_to(scratch)),
                "another archive of the data set wrote another file there; give one of them `into`",
            )
        path.replace(target)
    return len(files)
