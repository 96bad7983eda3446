r"""Pairing rules: how the name of a degraded file gives the name of its clean file.

A rule is a pattern on the degraded file's stem (or on its whole path below the root, without the
suffix) and templates for the clean file, the pair's name and its scene. Suffixes are looked up:
any image suffix, upper or lower case, will do on either side.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from airpipe.settings.datasets import PairRule


@dataclass(frozen=True)
class Rule:
    """One pairing rule: a pattern and templates, which are those of `re.Match.expand`."""

    pattern: re.Pattern[str]
    """Pattern of a degraded file's stem."""
    clean: str
    """Template of the clean file's stem."""
    name: str
    """Template of the pair's name."""
    group: str
    """Template of the pair's scene."""
    degradation: str = ""
    """Template of the degradation; empty: the rule does not tell it."""
    whole_path: bool = False
    """Whether pattern and clean file are paths below the root, not bare stems."""
    shared_clean: bool = False
    """Whether several degraded files may show one clean file."""


@dataclass(frozen=True)
class Partner:
    """Partner of a degraded file, as a rule tells it."""

    clean: str
    """Stem, or path without suffix, of the clean file."""
    name: str
    """Name of the pair."""
    group: str
    """Scene of the pair."""
    degradation: str
    """Degradation; empty: the rule does not tell it."""


RULES: dict[str, Rule] = {
    "same": Rule(re.compile(r"(.+)"), r"\1", r"\1", r"\1"),
    # Rain100L, Rain100H, Rain12 as published; some mirrors write rain-001x2
    "rain_no": Rule(re.compile(r"(rain-(\d+)(?:x2)?)"), r"norain-\2", r"\1", r"norain-\2"),
    # DSRIR and DyNet: X -> noX
    "no_prefix": Rule(re.compile(r"(.+)"), r"no\1", r"\1", r"no\1"),
    # RESIDE: the id ends at the first underscore and keeps its zeros
    "haze_id": Rule(re.compile(r"(([^_]+)_.+)"), r"\2", r"\1", r"\2", shared_clean=True),
    # NH-HAZE, Dense-Haze
    "hazy_gt": Rule(re.compile(r"(.+)_hazy"), r"\1_GT", r"\1", r"\1"),
    # GOPRO_Large: SEQUENCE/blur/000047.png -> SEQUENCE/sharp/000047.png
    "gopro_seq": Rule(
        re.compile(r"((?:.*/)?([^/]+))/blur(?:_gamma)?/(\d{6})"), r"\1/sharp/\3", r"\2-\3", r"\2", whole_path=True
    ),
    # flat mirrors of GoPro, written with a hyphen or an underscore before the frame
    "gopro_flat": Rule(re.compile(r"((GOPR\d{4}_\d{2}_\d{2})[-_]\d{6})"), r"\1", r"\1", r"\2"),
    # CDD-11: the folder is the degradation, the file has one name in all folders
    "cdd": Rule(
        re.compile(r"((?:.*/)?)([^/]+)/([^/]+)"),
        r"\1clear/\3",
        r"\2-\3",
        r"\3",
        degradation=r"\2",
        whole_path=True,
        shared_clean=True,
    ),
}
AUTO = ("same", "rain_no", "no_prefix")
"""Names of the rules that `auto` tries, in this order."""


def tried(rule: PairRule) -> tuple[Rule, ...]:
    """Return the rules that a name stands for."""
    return tuple(RULES[name] for name in (AUTO if rule == "auto" else (rule,)))


def without_suffix(path: str) -> str:
    """Return the path of a file without its suffix, folders kept."""
    return str(PurePosixPath(path).with_suffix(""))


def partners(degraded: str, rule: PairRule) -> list[Partner]:
    """Name the clean files that a degraded file may belong to, the likeliest first; none if its name does not fit.

    Args:
        degraded: path of the degraded file below the root.
        rule: name of the rule.

    Example:
        >>> partners("hazy/0001_0.8_0.2.jpg", "haze_id")[0].clean
        '0001'
    """
    path = without_suffix(degraded)
    found = []
    for one in tried(rule):
        match = one.pattern.fullmatch(path if one.whole_path else PurePosixPath(path).name)
        if match:
            expand = match.expand
            found.append(Partner(expand(one.clean), expand(one.name), expand(one.group), expand(one.degradation)))
    return found
