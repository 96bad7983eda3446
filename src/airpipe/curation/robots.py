"""The rules of a robots.txt, as RFC 9309 reads them.

Own code, since the standard library's reader takes `*` and `$` in paths for letters, and the first rule that fits for
the one that counts: it lets through what many hosts forbid.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Rules:
    """What a robots.txt asks of one crawler."""

    paths: tuple[tuple[str, bool], ...] = ()
    """Patterns of paths, each with whether they may be fetched."""
    delay: float = 0.0
    """Seconds between two requests (Crawl-delay, which the RFC does not know)."""

    def allow(self, address: str) -> bool:
        """Tell whether an address may be fetched: the longest pattern that fits decides, of two the one that allows."""
        parts = urlsplit(address)
        path = unquote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        fitting = [(len(pattern), allowed) for pattern, allowed in self.paths if _fits(pattern, path)]
        return max(fitting, default=(0, True))[1]


def _fits(pattern: str, path: str) -> bool:
    """Whether a path begins as a pattern says: `*` stands for anything, `$` at the end for the end of the path."""
    first, *others = map(unquote, pattern.removesuffix("$").split("*"))
    last = others.pop() if others and pattern.endswith("$") else ""
    if not path.startswith(first):
        return False
    place = len(first)
    for part in others:  # the first place is the best one for what follows
        found = path.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    if not pattern.endswith("$"):
        return True
    return place == len(path) if "*" not in pattern else path.endswith(last) and len(path) - len(last) >= place


def parse_rules(text: str, agent: str) -> Rules:
    """Read what a robots.txt asks of a crawler: the groups that name it, else those of `*`.

    Args:
        text: the file; lines that are no rules are passed over.
        agent: name of the crawler, in small letters.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    names: list[str] = []
    begun = False  # whether rules have come since the last name
    for line in re.split(r"\r\n?|\n", text):
        key, _, value = (part.strip() for part in line.split("#", 1)[0].partition(":"))
        if key.lower() == "user-agent":
            names = [*([] if begun else names), value.lower().split("/")[0].strip()]
            begun = False
            groups.setdefault(names[-1], [])
        elif key.lower() in ("allow", "disallow", "crawl-delay"):
            begun = True
            for name in names:
                groups[name].append((key.lower(), value))
    own = groups.get(agent, groups.get("*", []))
    paths = tuple((value, key == "allow") for key, value in own if key != "crawl-delay" and value)
    return Rules(paths, max((_seconds(value) for key, value in own if key == "crawl-delay"), default=0.0))


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,6}(\.\d{0,6})?", text, re.ASCII) else 0.0
