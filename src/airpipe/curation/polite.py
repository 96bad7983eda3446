"""Pictures at addresses: fetched once, slowly, and only where the host's robots.txt lets us."""

import hashlib
import time
from dataclasses import dataclass
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from urllib.parse import urlsplit
from urllib.robotparser import RobotFileParser

import requests

from airpipe.data.transfer import Patience, SourceFailed, Transfer, new_session
from airpipe.errors import AirpipeError

AGENT = "airpipe"
"""Name that we give to hosts."""
PATIENCE = Patience(tries=2, timeout=(10.0, 30.0))
"""Many addresses of a large list are dead: one is given up earlier than a data set."""
LONGEST_DELAY = 60.0
"""Longest time in seconds between two requests that a robots.txt may ask for."""
LARGEST = 200_000_000
"""Bytes of the largest picture that is fetched."""
LARGEST_RULES = 500 * 1024
"""Bytes of a robots.txt that are read (RFC 9309 asks for as many at least)."""
HOSTS = 1024
"""Number of hosts whose rules are remembered."""
IN_A_ROW = 100
"""So many addresses that fail one after the other mean that the network is not there."""


@dataclass
class _Host:
    rules: RobotFileParser
    delay: float
    """Seconds between two requests."""
    next: float = 0.0
    """Time before which nothing is asked."""


class _Refused(SourceFailed):
    """Nothing was asked: the address is none, or its host does not want us. It says nothing of the network."""


class Fetcher:
    """Fetcher of pictures into a folder, where they stay: what is there is not asked for again.

    Args:
        cache: folder of fetched pictures, each under the hash of its address.
        per_second: requests to one host in a second, at most.
    """

    def __init__(self, cache: Path, per_second: float) -> None:
        self.cache, self.per_second = cache, per_second
        self.session = new_session(PATIENCE)
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # those of all hosts would pile up
        self._host = lru_cache(HOSTS)(self._ask_host)
        self._failed = 0

    def place(self, address: str) -> Path:
        """Return the file of an address, whether or not it is there."""
        key = hashlib.sha256(address.encode()).hexdigest()[:32]
        return self.cache / key[:2] / key[2:4] / key

    def fetch(self, address: str) -> Path:
        """Return the file of an address, fetched where it is not there yet; a half-received one goes on.

        Raises:
            SourceFailed: the address is none, answers no picture, or its host does not want us.
            AirpipeError: `IN_A_ROW` addresses failed one after the other, or the disk is full.
        """
        target = self.place(address)
        if target.is_file():
            return target
        try:
            self._transfer(address, target)
        except _Refused:
            raise
        except SourceFailed as error:
            self._failed += 1
            if self._failed == IN_A_ROW:
                raise AirpipeError(
                    f"{IN_A_ROW} addresses failed one after the other; the last: {error}. Look whether this machine "
                    "reaches the network, then run again: it goes on where it stopped"
                ) from None
            raise
        self._failed = 0
        return target

    def _transfer(self, address: str, target: Path) -> None:
        try:
            parts = urlsplit(address)
        except ValueError as error:
            raise _Refused(f"{address}: no address ({error})") from None
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise _Refused(f"{address}: no address. Expected one that begins with http:// or https://")
        host = self._host(f"{parts.scheme}://{parts.netloc}")
        if not host.rules.can_fetch(AGENT, address):
            raise _Refused(f"{address}: the host's robots.txt does not let us fetch it")
        time.sleep(max(0.0, host.next - time.monotonic()))
        try:
            transfer = Transfer(address, target, address, patience=PATIENCE, session=self.session, largest=LARGEST)
            transfer.run()
            transfer.finish()
        finally:
            host.next = time.monotonic() + host.delay

    def _ask_host(self, root: str) -> _Host:
        """Read a host's robots.txt; one that is not there forbids nothing."""
        rules = RobotFileParser()
        try:
            rules.parse(self._read_rules(f"{root}/robots.txt"))
        except (requests.RequestException, ValueError):  # the picture's own request tells what is wrong
            rules.parse([])
            return _Host(rules, 1 / self.per_second)
        asked = float(rules.crawl_delay(AGENT) or 0)
        return _Host(rules, max(1 / self.per_second, min(asked, LONGEST_DELAY)))

    def _read_rules(self, address: str) -> list[str]:
        headers = {"User-Agent": AGENT}
        with self.session.get(address, headers=headers, timeout=PATIENCE.timeout, stream=True) as answer:
            if answer.status_code in (401, 403):
                return ["User-agent: *", "Disallow: /"]
            if answer.status_code != 200:
                return []
            found = bytearray()
            for chunk in answer.iter_content(1 << 14):
                found += chunk
                if len(found) >= LARGEST_RULES:
                    break
        return found[:LARGEST_RULES].decode("utf-8", "replace").splitlines()
