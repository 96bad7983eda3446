"""Pictures at addresses: fetched once, slowly, and only where the host's robots.txt lets us (RFC 9309)."""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from urllib.parse import urlsplit

import requests

from airpipe.curation.robots import Rules, parse_rules
from airpipe.data.locks import only_process
from airpipe.data.transfer import Patience, SourceFailed, Transfer, Unanswered, is_busy, new_session, why_no_answer
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
PORTS = {"http": 80, "https": 443}
"""Schemes that are fetched, and the port of each that need not be said."""
HOSTS = 1024
"""Number of hosts whose rules are remembered."""


@dataclass
class _Host:
    root: str
    """Its address without a path."""
    rules: Rules | str = ""
    """What its robots.txt asks of us, or why that is not known."""
    round: int = -1
    """Round in which its robots.txt was asked for."""


class Fetcher:
    """Fetcher of pictures into a folder, where they stay: what is there is not asked for again.

    A host whose robots.txt is not answered, or with 429 or 5xx, is not asked for pictures until the next round.

    Args:
        cache: folder of fetched pictures, each under the hash of its address.
        per_second: requests to one host in a second, at most.
    """

    def __init__(self, cache: Path, per_second: float) -> None:
        self.cache, self.per_second = cache, per_second
        self.session = new_session(PATIENCE)
        self.session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))  # those of all hosts would pile up
        self._host = lru_cache(HOSTS)(_Host)
        self._next: dict[str, float] = {}  # time before which a host is asked nothing, whatever its scheme and port
        self._round = 0
        self._answered, self._last = False, ""

    def place(self, address: str) -> Path:
        """Return the file of an address, whether or not it is there."""
        key = hashlib.sha256(address.encode()).hexdigest()[:32]
        return self.cache / key[:2] / key[2:4] / key

    def fetch(self, address: str) -> Path:
        """Return the file of an address, fetched where it is not there yet; a half-received one goes on.

        Raises:
            Unanswered: the host does not answer, or asks to come later (429, 5xx): the picture may be there.
            SourceFailed: the address is none, answers no picture, or its host does not want us.
            AirpipeError: the disk is full.
        """
        target = self.place(address)
        if target.is_file():
            return target
        root = root_of(address)
        if not root:
            raise SourceFailed(f"{address}: no address. Expected one that begins with http:// or https://")
        host = self._host(root)
        rules = self._rules(host)
        if isinstance(rules, str):
            raise Unanswered(f"{address}: not asked for, since {rules}")
        if not rules.allow(address):
            raise SourceFailed(f"{address}: the host's robots.txt does not let us fetch it")
        with only_process(target.with_name(".lock")):  # another list may hold the same address
            if not target.is_file():
                self._transfer(address, target, host, rules.delay)
        return target

    def new_round(self) -> None:
        """Forget who did not answer: such hosts are asked again."""
        self._round += 1
        self._answered = False

    def is_online(self, addresses: Iterable[str]) -> bool:
        """Tell whether any host has answered in this round.

        Where none has, hosts are asked for their robots.txt: the last one that answered before, and those of
        `addresses`, until one answers.
        """
        roots = dict.fromkeys([self._last, *map(root_of, addresses)] if not self._answered else ())
        return self._answered or any(map(self.is_there, filter(None, roots)))

    def is_there(self, root: str) -> bool:
        """Tell whether a host, as `root_of` names it, answers when it is asked for its robots.txt."""
        return isinstance(self._read_rules(root), Rules)

    def _transfer(self, address: str, target: Path, host: _Host, delay: float) -> None:
        name = urlsplit(host.root).hostname or ""
        time.sleep(max(0.0, self._next.get(name, 0.0) - time.monotonic()))
        try:
            transfer = Transfer(address, target, address, patience=PATIENCE, session=self.session, largest=LARGEST)
            transfer.run()
            transfer.finish()
        except Unanswered:
            raise
        except AirpipeError:
            self._hear(host)
            raise
        finally:
            self._next.pop(name, None)  # to the end: the host that was asked last
            self._next[name] = time.monotonic() + max(1 / self.per_second, min(delay, LONGEST_DELAY))
            if len(self._next) > HOSTS:
                del self._next[next(iter(self._next))]
        self._hear(host)

    def _hear(self, host: _Host) -> None:
        self._answered, self._last = True, host.root

    def _rules(self, host: _Host) -> Rules | str:
        if isinstance(host.rules, str) and host.round != self._round:
            host.rules, host.round = self._read_rules(host.root), self._round
            if isinstance(host.rules, Rules):
                self._hear(host)
        return host.rules

    def _read_rules(self, root: str) -> Rules | str:
        """Read a host's robots.txt, or say why nothing may be asked of it for now (RFC 9309, 2.3.1).

        One that is not there (4xx) or where redirects lead nowhere forbids nothing.
        """
        place, found = f"{root}/robots.txt", bytearray()
        headers = {"User-Agent": AGENT}
        try:
            with self.session.get(place, headers=headers, timeout=PATIENCE.timeout, stream=True) as answer:
                if is_busy(answer.status_code):
                    return f"{place} answered {answer.status_code}"
                for chunk in answer.iter_content(1 << 14) if answer.status_code == 200 else ():
                    found += chunk
                    if len(found) >= LARGEST_RULES:
                        break
        except (requests.TooManyRedirects, ValueError):
            return Rules()  # it answered: `root_of` lets no other nonsense by
        except requests.RequestException as error:
            return f"{place} was not answered: {why_no_answer(error)}"
        return parse_rules(found[:LARGEST_RULES].decode("utf-8-sig", "replace"), AGENT)


def root_of(address: str) -> str:
    """Scheme, host and port of an address, in one spelling; "" for what nobody can be asked for."""
    try:
        sent = requests.Request("GET", address).prepare().url or ""
        parts = urlsplit(sent)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except (ValueError, requests.RequestException):
        return ""
    if parts.scheme not in PORTS or not host:
        return ""
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}" + (f":{port}" if port not in (None, PORTS[parts.scheme]) else "")
