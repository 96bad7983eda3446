"""Servers that misbehave in many ways: a data set is fetched whole, or the next source is taken with one line."""

import gzip
import io
import os
import random
import time
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from unittest.mock import patch

from test_archives import tar_of, tree, zip_of
from test_fetch import DATA, FILES, OTHER, entry
from web import Page, Web

from airpipe.data import remote, transfer
from airpipe.data.fetch import Places, fetch_dataset
from airpipe.data.transfer import Patience
from airpipe.errors import AirpipeError

from . import SLOWEST, Outcome

COUNT = 60


def run(count: int, seed: int, folder: Path) -> Outcome:
    """Play scenarios, each with a source that misbehaves and one that does not."""
    outcome, patience = Outcome(), Patience(tries=3, backoff=0, longest_wait=1, timeout=(5, 5))
    local = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    hurried = [patch.object(module, "PATIENCE", patience) for module in (transfer, remote)]
    with patch.dict(os.environ, local), hurried[0], hurried[1], Web() as web:
        for number in range(count):
            kind = list(SCENARIOS)[number % len(SCENARIOS)]
            page = SCENARIOS[kind](random.Random(f"{seed} {number}"))
            how, fault = play(web, folder / f"{number}", page)
            outcome.add(f"try {number}, {kind}", how, fault)
    return outcome


def play(web: Web, folder: Path, page: Page) -> tuple[str, str]:
    """Fetch from a page alone, then with a good source behind it; how it ended, and the fault where that is one."""
    places = Places(folder / "datasets/rain", folder / "downloads/rain", folder / "lock.yaml")
    web.pages = {"/bad.zip": page, "/good.zip": Page(DATA)}
    bad, good = ({"url": web.url(f"/{name}.zip"), "name": f"{name}.zip"} for name in ("bad", "good"))
    said, begin, alone = io.StringIO(), time.monotonic(), ""
    try:
        with redirect_stderr(said):
            try:
                fetch_dataset("rain", entry([bad]), places)
            except AirpipeError as error:
                alone = str(error)
                if places.folder.exists() or places.unpacking.exists():
                    return "", "a half-filled folder stays"
                fetch_dataset("rain", entry([bad], [good]), places)
    except Exception as error:  # what a user would see as a traceback: counted, that is the campaign
        return "", f"{type(error).__name__}: {str(error)[:300]!r}"
    if tree(places.folder) not in (FILES, tree_of_other()) or places.unpacking.exists():
        return "", f"other files: {sorted(tree(places.folder))[:5]}"
    if time.monotonic() - begin > SLOWEST:
        return "", f"took {time.monotonic() - begin:.0f} s"
    lines = [line for line in said.getvalue().splitlines() if "does not work" in line]
    if alone and (not lines or max(map(len, lines)) > 1000 or "Traceback" in said.getvalue()):
        return "", f"said {said.getvalue()[:300]!r}"
    return ("from the next source" if alone else "fetched whole"), ""


def tree_of_other() -> dict[str, bytes]:
    """Files of another archive that a server may have under the same address."""
    with zipfile.ZipFile(io.BytesIO(OTHER)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def answers(*statuses: int, **headers: str):
    """A page that first answers with statuses."""
    return lambda generator: Page(DATA, answers=[(status, headers, b"no") for status in statuses])


def stopping(generator: random.Random) -> Page:
    """A page whose connection breaks off several times, with or without ranges, validators and lengths."""
    stops = [generator.randrange(1, len(DATA)) for _ in range(generator.randint(1, 4))]
    return Page(
        DATA,
        stops=stops,
        ranges=generator.random() < 0.7,
        if_range=generator.random() < 0.7,
        etag=generator.choice(('"one"', 'W/"weak"', "")),
        chunked=generator.random() < 0.3,
        length=generator.random() < 0.8,
    )


def damaged(generator: random.Random) -> Page:
    """An archive with some bytes changed, cut off or made longer."""
    data = bytearray(DATA)
    for _ in range(generator.choice((1, 5, 50))):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return Page(generator.choice((bytes(data), DATA[: generator.randrange(len(DATA))], DATA + b"more")))


SCENARIOS = {
    "breaks off": stopping,
    "damaged": damaged,
    "busy": answers(503, 429, 500),
    "refuses": lambda generator: answers(*[generator.choice((401, 403, 404, 410, 451, 418))] * 9)(generator),
    "asks to wait": answers(429, **{"Retry-After": "0"}),
    "a time to wait that is none": answers(503, **{"Retry-After": "soon"}),
    "redirects to nowhere": answers(302, Location="http://[bad/"),
    "redirects in a circle": answers(*[302] * 70, Location="/bad.zip"),
    "a web page": lambda generator: Page(
        b"<!DOCTYPE html><html>quota</html>", kind=generator.choice(("text/html", ""))
    ),
    "JSON": lambda generator: Page(b'{"error": "later"}'),
    "nothing": lambda generator: Page(b""),
    "an empty archive": lambda generator: Page(generator.choice((zip_of({}), gzip.compress(tar_of({}))))),
    "no image": lambda generator: Page(zip_of({"readme.txt": b"x"})),
    "a path out": lambda generator: Page(zip_of({"clean/1.png": b"x", "../evil.png": b"y"})),
    "a bomb": lambda generator: Page(zip_of({"clean/1.png": bytes(80_000_000)})),
    "a length that is none": lambda generator: Page(
        DATA,
        length=False,
        headers={"Content-Length": generator.choice(("many", "-1", "1e3", "\xb2", "7, 8", "9" * 40))},
    ),
    "too short a length": lambda generator: Page(DATA, length=False, headers={"Content-Length": "100"}),
    "too long a length": lambda generator: Page(DATA, length=False, headers={"Content-Length": str(len(DATA) + 9)}),
    "chunks and a length": lambda generator: Page(DATA, chunked=True, headers={"Content-Length": "77"}),
    "an encoding": lambda generator: Page(
        gzip.compress(DATA), headers={"Content-Encoding": generator.choice(("gzip", "br", "deflate", "zstd", "what"))}
    ),
    "an odd range": lambda generator: Page(
        DATA, stops=[30_000], headers={"Content-Range": generator.choice(("bytes 5-9/10", "bytes x", "bytes */*"))}
    ),
    "another file": lambda generator: Page(OTHER),
}
