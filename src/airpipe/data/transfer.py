"""Download one file, go on where an earlier attempt stopped, and never keep an error page.

Received bytes grow in `<name>.<key>.part`, where the key stands for the address; what is known of
them is in `<name>.<key>.part.json`. Both stay when the transfer fails or is killed. This is not
left to pooch because pooch checks a file in silence under a random temporary name, so that a kill
meanwhile loses all of it, and deletes a wrong file, where we show progress, resume and keep `.wrong`.
"""

import hashlib
import json
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from airpipe.data.streams import Meter, enough_space, write_all
from airpipe.errors import AirpipeError
from airpipe.provenance import write_json

CHUNK = 1 << 18
"""Bytes that are read at a time."""
PROGRESS = 1 << 20
"""Bytes that an attempt has to gain in order not to count as a failed one."""
BUSY = (429, 500, 502, 503, 504)
"""Answers of a busy server, which is then asked again."""
QUOTA = (
    "Most likely it is an error page or, on Google Drive, the page that says that the file's download quota is used "
    "up: try again in a day, or open the address in a browser"
)
"""Likely reason why something else than the file came, for messages."""


class SourceFailed(AirpipeError):
    """One address does not give its file; another source may."""


class Unanswered(SourceFailed):
    """Nobody answered, or with "later" (429, 5xx): it says nothing of the file, which may come another time."""


@dataclass(frozen=True)
class Patience:
    """Patience of a transfer: how often and how long it tries again. Times in seconds."""

    tries: int = 4
    """Number of failed attempts in a row after which it gives up."""
    backoff: float = 0.5
    """Half of the wait after the first failure; the wait doubles with each further one."""
    longest_wait: int = 30
    """Longest wait that a server may ask for."""
    timeout: tuple[float, float] = (30.0, 60.0)
    """Longest times to connect, and to wait for the next bytes."""


PATIENCE = Patience()


@dataclass
class Part:
    """Note about a half-received file.

    `again` counts the bytes that were thrown away to start again, over all runs; `validator` is the
    ETag or date that the server gave; `sha256` what a Hugging Face server says of the file;
    `length_unknown` that nobody said how long it is, so that a cut file looks complete.
    """

    address: str
    validator: str = ""
    total: int | None = None
    again: int = 0
    sha256: str = ""
    length_unknown: bool = False


@dataclass
class Transfer:
    """One HTTP transfer to one file; `run` does it.

    Args:
        url: address that is asked.
        target: path of the finished file; appears by a rename.
        address: identity of the bytes over runs (the url itself may hold a one-time token).
        size: number of bytes that are expected; None when nobody knows.
        known: whether the caller knows the file's sha256. Otherwise bytes of an earlier run are kept only
            when the server can tell whether the file has changed since.
        headers: headers that are sent with every request.
        patience: how often and how long it tries again.
        session: session with cookies from before; None: a new one.
        largest: most bytes that are taken; None: any number.
    """

    url: str
    target: Path
    address: str
    size: int | None = None
    known: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    patience: Patience = field(default_factory=lambda: PATIENCE)
    session: requests.Session | None = None
    largest: int | None = None

    def __post_init__(self) -> None:
        key = hashlib.sha256(self.address.encode()).hexdigest()[:8]
        self.part = self.target.with_name(f"{self.target.name}.{key}.part")
        self.notes = self.part.with_name(self.part.name + ".json")

    def run(self) -> Part:
        """Fetch into `part` until it is complete; the caller checks it and calls `finish`.

        Raises:
            Unanswered: the address does not answer, or the server is busy.
            SourceFailed: it refuses, or does not give this file.
            AirpipeError: the disk is full.
        """
        self.target.parent.mkdir(parents=True, exist_ok=True)
        state = self._read_notes()
        session = self.session or new_session(self.patience)
        failed = 0
        while state.total is None or self._there() != state.total:
            before = self._there()
            try:
                with self._ask(session, state, before) as response:
                    complete = self._receive(response, state)
                reason = "the connection ended early"
            except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
                complete, reason = False, why_no_answer(error)
            if complete:
                break
            failed = 0 if self._there() - before >= PROGRESS else failed + 1
            if failed >= self.patience.tries:
                have, total = self._there(), state.total or "an unknown number of"
                kept = f"; {have} of {total} bytes are kept for the next run" if have else ""
                raise Unanswered(f"{self.url}: {reason}, {failed} times{kept}")
            if failed:
                time.sleep(self.patience.backoff * 2**failed)
        self._check_size()
        return state

    def finish(self) -> None:
        """Rename the complete part to the target."""
        self.part.replace(self.target)
        self.notes.unlink(missing_ok=True)

    def _there(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _read_notes(self) -> Part:
        try:
            state = Part(**json.loads(self.notes.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # missing or damaged: nothing is known of the bytes
            state = Part("unknown")
        # kept are bytes of this address of which somebody can tell whether the file has changed since
        same = state.address == self.address
        if same and self.part.exists() and (state.validator or self.known or state.total == self._there()):
            return state
        fresh = Part(self.address, again=state.again if same else 0)
        self._forget(fresh)
        return fresh

    def _ask(self, session: requests.Session, state: Part, have: int) -> requests.Response:
        # identity: a server that compresses on the way would count other bytes than those to go on behind
        headers = {"User-Agent": "airpipe", "Accept-Encoding": "identity", **self.headers}
        if have and (state.validator or state.total):
            headers["Range"] = f"bytes={have}-"
            if state.validator:
                headers["If-Range"] = state.validator
        try:
            return session.get(self.url, headers=headers, stream=True, timeout=self.patience.timeout)
        except requests.exceptions.InvalidHeader as error:  # two lengths, or a time to wait that is none
            raise SourceFailed(f"{self.url}: the server's answer cannot be understood ({error})") from None
        except (ValueError, requests.TooManyRedirects) as error:  # for example a redirect to http://[bad/
            raise SourceFailed(f"{self.url}: leads to an address that cannot be opened ({error})") from None

    def _receive(self, response: requests.Response, state: Part) -> bool:
        """Take one answer; True when the file is complete."""
        have = self._there()
        if response.status_code == 416 and have:  # nothing lies behind what is here: another file
            self._forget(state)
            return False
        if response.status_code not in (200, 206):
            failure = Unanswered if is_busy(response.status_code) else SourceFailed
            raise failure(f"{self.url}: the server answered {_status(response)}")
        length, chunked = self._announced(response)
        first = response.raw.read(512)  # enough to tell a web page from the file
        start_of_file = first if response.status_code == 200 else b""
        refuse_page(self.url, self.target.name, response.headers.get("Content-Type", ""), start_of_file)
        if response.status_code == 206:
            start, total = _content_range(response)
            changed = state.validator and _validator(response) not in ("", state.validator)
            if start != have or changed or (state.total and total and total != state.total):
                self._forget(state)
                return False
        else:
            self._forget(state)
            total = None if chunked else length
        state.total, state.validator = total or state.total, _validator(response) or state.validator
        state.sha256 = _hub_sha256(response) or state.sha256
        if self.size and state.total and state.total != self.size:
            raise SourceFailed(
                f"{self.url}: the server has {state.total} bytes, the registry says {self.size}: another version. "
                "Correct the entry if the new one is wanted"
            )
        self._refuse_large(state, state.total or 0)
        enough_space(self.target, (state.total or self.size or 0) - self._there())
        write_json(self.notes, vars(state))
        self._write(response, first, state)
        if state.total is None:  # nobody said how many: a clean end is the end
            state.total = self._there()
            state.length_unknown = self.size is None and not chunked
            if length is not None and length != state.total:
                self._forget(state)
                raise SourceFailed(f"{self.url}: the server announced {length} bytes and sent chunks of another length")
        return self._there() == state.total

    def _announced(self, response: requests.Response) -> tuple[int | None, bool]:
        """The length that an answer announces, None for none, and whether it comes in chunks.

        Raises:
            SourceFailed: the length is no number or two of them, or the bytes are those of an encoding.
        """
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        # servers say so of a file that is compressed itself; its bytes are those of the file
        itself = encoding in ("gzip", "x-gzip") and self.target.name.lower().endswith((".gz", ".tgz"))
        if encoding not in ("", "identity") and not itself:
            raise SourceFailed(
                f"{self.url}: the server sent the file encoded ({encoding[:80]}), which nobody asked for"
            )
        text = response.headers.get("Content-Length")
        lengths = {part.strip() for part in text.split(",")} if text is not None else set()
        if len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,18}", part) for part in lengths):
            raise SourceFailed(
                f"{self.url}: the server announced {str(text)[:80]!r} as length. Expected one number of bytes"
            )
        chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        return (int(lengths.pop()) if lengths else None), chunked

    def _write(self, response: requests.Response, data: bytes, state: Part) -> None:
        label = f"fetching {self.target.name}"
        with Meter(label, state.total, self._there()) as meter, self.part.open("ab", buffering=0) as stream:
            while data:
                write_all(stream, data, self.part)
                meter.add(len(data))
                self._refuse_large(state, stream.tell())
                if state.total and stream.tell() > state.total:
                    self._forget(state)
                    raise SourceFailed(f"{self.url}: the server sent more than the {state.total} bytes it announced")
                data = response.raw.read1(CHUNK)

    def _refuse_large(self, state: Part, count: int) -> None:
        if self.largest is not None and count > self.largest:
            self._forget(state)
            raise SourceFailed(f"{self.url}: has more than {self.largest} bytes. Nothing was kept")

    def _forget(self, state: Part) -> None:
        """Start again from zero."""
        if self._there():
            print(f"{self.url}: {self.target.name} cannot be resumed; it starts again from zero", file=sys.stderr)
        state.again += self._there()
        state.total, state.validator = None, ""
        self.part.unlink(missing_ok=True)

    def _check_size(self) -> None:
        if self.size and self._there() != self.size:
            found = self._there()
            self.part.unlink()
            raise SourceFailed(f"{self.url}: {found} bytes came, the registry says {self.size}. Nothing was kept")


def new_session(patience: Patience) -> requests.Session:
    """Make a session that asks a busy server (429, 5xx) again, after the time that it names, up to a cap."""
    # connections that break are not tried again here: `Transfer.run` goes on behind the bytes that came
    retry = Retry(
        total=None,
        connect=0,
        read=0,
        other=0,
        status=patience.tries - 1,
        redirect=20,
        status_forcelist=BUSY,
        allowed_methods=("GET", "HEAD"),
        backoff_factor=patience.backoff,
        raise_on_status=False,
        retry_after_max=patience.longest_wait,
    )
    session = requests.Session()
    session.mount("https://", HTTPAdapter(max_retries=retry))
    session.mount("http://", HTTPAdapter(max_retries=retry))
    return session


def refuse_page(url: str, name: str, content_type: str, first: bytes) -> None:
    """Raise `SourceFailed` when an HTML page came instead of the file."""
    if name.lower().endswith((".html", ".htm")):
        return
    start = first.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if content_type.lower().startswith("text/html") or start.startswith((b"<!doctype html", b"<html", b"<head")):
        raise SourceFailed(f"{url}: a web page came instead of {name}. {QUOTA}")


def _status(response: requests.Response) -> str:
    text = f"{response.status_code} {response.reason or ''}".strip()
    if wait := response.headers.get("Retry-After"):
        text += f" (try again after {wait} s)" if wait.isdigit() else f" (try again after {wait})"
    hints = {
        401: ": the file asks for an account or for terms to be accepted in a browser",
        403: ": it is not public, or its quota is used up",
        404: ": it has moved or was deleted",
        429: ": too many requests, or the quota is used up",
    }
    return text + hints.get(response.status_code, "")


def is_busy(status: int) -> bool:
    """Tell whether an answer says "later", so that it says nothing of what was asked for."""
    return status == 429 or status >= 500


def why_no_answer(error: Exception) -> str:
    """Say why nobody answered, of an exception of requests, in a few words."""
    text = re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>:? ?", "", str(error))  # other words in every run
    for phrase in ("timed out", "Name or service not known", "Connection refused", "IncompleteRead"):
        if phrase in text:
            return f"the connection failed ({phrase})"
    return f"the connection failed ({type(error).__name__}: {text[:200]})"


def _validator(response: requests.Response) -> str:
    """What If-Range may hold: a strong ETag, else the date."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _hub_sha256(response: requests.Response) -> str:
    """What Hugging Face says of a large file, in the answer that redirects to the bytes."""
    tags = [answer.headers.get("X-Linked-ETag", "").strip('"') for answer in (*response.history, response)]
    return next((tag for tag in tags if re.fullmatch(r"[0-9a-f]{64}", tag)), "")


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", response.headers.get("Content-Range", "").strip())
    return (int(match[1]), None if match[2] == "*" else int(match[2])) if match else (None, None)
