"""Pictures at addresses: fetched once and politely; who does not answer is asked again, outages record nothing."""

from contextlib import contextmanager

import pytest
import requests
from curated import bodies, encoded, photographs, rows_of, score
from web import Page, Web

from airpipe.curation import polite, scoring
from airpipe.curation.polite import Fetcher
from airpipe.curation.robots import parse_rules
from airpipe.curation.scoring import read_scores
from airpipe.data.transfer import Patience, Unanswered, why_no_answer
from airpipe.errors import AirpipeError

PICTURE = encoded(photographs()["coffee"][:64, :64])


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(polite, "PATIENCE", Patience(tries=1, backoff=0, timeout=(5.0, 5.0)))


def listed(folder, addresses):
    """Addresses as a source."""
    (folder / "addresses.txt").write_text("\n".join(addresses))
    return {"web": ("urls", str(folder / "addresses.txt"))}


def pictures(count):
    """Pages of pictures that differ."""
    return {f"/{number}.png": Page(PICTURE + bytes([number])) for number in range(count)}


def problems(files):
    return [row["problem"] for row in read_scores(files)]


def closed_port():
    """Address of a host that refuses connections."""
    with Web() as web:
        return web.root


@contextmanager
def network_gone(monkeypatch, first, end):
    """Requests from number `first` to before `end` reach nobody."""
    asked, get = iter(range(10_000)), requests.Session.get

    def cut(*arguments, **named):
        if first <= next(asked) < end:
            raise requests.ConnectionError("[Errno 101] Network is unreachable")
        return get(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(requests.Session, "get", cut)
        yield


def test_addresses_are_fetched_once_and_pages_dead_links_and_forbidden_ones_recorded(tmp_path):
    picture = encoded(photographs()["coffee"])
    with Web() as web:
        web.pages = {
            "/robots.txt": Page(b"User-agent: *\nDisallow: /private\n", kind="text/plain"),
            "/good.png": Page(picture, kind="image/png"),
            "/private/good.png": Page(picture, kind="image/png"),
            "/page.png": Page(b"<!doctype html><html>sorry</html>", kind="text/html"),
            "/quiet.png": Page(b"  <html>sorry</html>", kind="image/png"),
        }
        paths = ("good.png", "page.png", "quiet.png", "gone.png", "private/good.png")
        addresses = [*map(web.url, (f"/{path}" for path in paths)), "ftp://h/1.png"]
        sources = listed(tmp_path, addresses)
        rows = rows_of(score(tmp_path, sources))
        assert [rows[address]["problem"] == "" for address in addresses] == [True, *[False] * 5]
        for number, words in {
            1: "a web page came instead",
            2: "a web page came instead",
            3: "the server answered 404",
            4: "robots.txt does not let us",
            5: "no address",
        }.items():
            assert words in rows[addresses[number]]["problem"]
        asked = [path for _, path, _ in web.log]
        assert asked.count("/robots.txt") == asked.count("/good.png") == 1 and "/private/good.png" not in asked
        (tmp_path / "scores" / "00000-of-00001.csv").unlink()
        assert rows_of(score(tmp_path, sources)) == rows
        assert [path for _, path, _ in web.log].count("/good.png") == 1


@pytest.mark.parametrize("length", [True, False])
def test_what_is_too_large_for_a_picture_is_not_kept(tmp_path, monkeypatch, length):
    monkeypatch.setattr(polite, "LARGEST", 1000)
    with Web() as web:
        web.pages = {"/1.png": Page(b"\x89PNG" + bytes(1000), length=length)}
        (tmp_path / "addresses.txt").write_text(web.url("/1.png"))
        [row] = read_scores(score(tmp_path, {"web": ("urls", str(tmp_path / "addresses.txt"))}))
    assert "has more than 1000 bytes" in row["problem"]
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 900]


def test_a_host_is_asked_no_faster_than_it_and_we_want(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(polite.time, "sleep", waited.append)
    with Web() as web:
        web.pages = {f"/{number}.png": Page(b"\x89PNG", kind="image/png") for number in range(3)}
        fetcher = Fetcher(tmp_path / "a", per_second=0.5)
        for number in range(2):
            fetcher.fetch(web.url(f"/{number}.png"))
        assert waited[0] == 0 and waited[1] == pytest.approx(2, abs=0.5)
        web.pages["/robots.txt"] = Page(b"User-agent: airpipe\nCrawl-delay: 7\n", kind="text/plain")
        fetcher = Fetcher(tmp_path / "b", per_second=0.5)
        for number in range(2):
            fetcher.fetch(web.url(f"/{number}.png"))
        assert waited[3] == pytest.approx(7, abs=0.5)


def test_hosts_leave_nothing_behind_and_their_rules_are_read_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(polite, "LARGEST_RULES", 60)
    rules = b"User-agent: *\nDisallow: /private\n".ljust(60, b"#") + b"\nDisallow: /\n"
    with Web() as web:
        web.pages = {
            "/robots.txt": Page(rules, kind="text/plain"),
            "/1.png": Page(b"\x89PNG", headers={"Set-Cookie": "seen=1; Path=/"}),
        }
        fetcher = Fetcher(tmp_path, per_second=1000)
        assert fetcher.fetch(web.url("/1.png")).read_bytes() == b"\x89PNG"
        with pytest.raises(AirpipeError, match="robots.txt does not let us"):
            fetcher.fetch(web.url("/private/1.png"))
    assert len(fetcher.session.cookies) == 0


# Outages


def test_an_outage_stops_the_job_records_nothing_and_the_next_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "HELD", 4)
    with Web() as web:
        web.pages = pictures(12)
        sources = listed(tmp_path, map(web.url, web.pages))
        [whole] = score(tmp_path / "whole", sources)
        told = pytest.raises(AirpipeError, match=r"^4 addresses were not answered, twice, .*; the last: .*/8.png: .*")
        with network_gone(monkeypatch, 6, 10_000), told:  # robots.txt and five pictures came
            score(tmp_path, sources)
        [part] = (tmp_path / "scores").glob("*.part")
        assert problems([part]) == [""] * 5
        [file] = score(tmp_path, sources)
    assert file.read_bytes() == whole.read_bytes() and problems([file]) == [""] * 12


def test_an_outage_that_ends_leaves_no_trace_in_the_scores(tmp_path, monkeypatch):
    with Web() as web:
        web.pages = pictures(12)
        sources = listed(tmp_path, map(web.url, web.pages))
        [whole] = score(tmp_path / "whole", sources)
        with network_gone(monkeypatch, 6, 10):
            [file] = score(tmp_path, sources)
        with network_gone(monkeypatch, 0, 1):
            [third] = score(tmp_path / "third", sources)
    assert file.read_bytes() == third.read_bytes() == whole.read_bytes()


def test_any_number_of_dead_addresses_of_one_site_is_recorded_and_does_not_stop_the_job(tmp_path):
    with Web() as web:
        sources = listed(tmp_path, [web.url(f"/{number}.png") for number in range(104)])
        found = problems(score(tmp_path, sources))
    assert len(found) == 104 and all("the server answered 404" in problem for problem in found)


def test_addresses_that_are_forbidden_or_none_say_nothing_of_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "HELD", 3)
    with Web() as web:
        web.pages = {"/robots.txt": Page(b"User-agent: *\nDisallow: /\n", kind="text/plain")}
        addresses = [*(web.url(f"/{number}.png") for number in range(4)), *(f"ftp://h/{number}" for number in range(4))]
        found = problems(score(tmp_path, listed(tmp_path, addresses)))
    assert ["robots.txt" in problem for problem in found] == [True] * 4 + [False] * 4
    assert ["no address" in problem for problem in found] == [False] * 4 + [True] * 4


def test_a_host_that_is_gone_while_others_answer_is_recorded_whatever_the_shards(tmp_path):
    gone = closed_port()
    with Web() as web:
        web.pages = pictures(6)
        live = list(map(web.url, web.pages))
        dead = [f"{gone}/{number}.png" for number in range(3)]
        sources = listed(tmp_path, [*dead, *live])
        tables = [score(tmp_path / str(shards), sources, shards) for shards in (1, 2, 9)]
    assert ["not asked for" in problem for problem in problems(tables[0])] == [True] * 3 + [False] * 6
    assert problems(tables[0])[3:] == [""] * 6
    assert bodies(tables[1]) == bodies(tables[0]) == bodies(tables[2])


def test_a_picture_that_always_fails_takes_no_other_one_of_its_host_along(tmp_path):
    with Web() as web:
        web.pages = pictures(5)
        web.pages["/2.png"].answers = [(500, {}, b"")] * 10
        rows = rows_of(score(tmp_path, listed(tmp_path, map(web.url, web.pages))))
    assert [bool(row["problem"]) for row in rows.values()] == [False, False, True, False, False]
    assert "the server answered 500" in rows[web.url("/2.png")]["problem"]


def test_a_busy_host_is_asked_again_behind_the_next_pictures(tmp_path):
    with Web() as web:
        web.pages = pictures(5)
        web.pages["/1.png"].answers = [(429, {}, b"")]
        found = problems(score(tmp_path, listed(tmp_path, map(web.url, web.pages))))
        asked = [path for _, path, _ in web.log]
    assert found == [""] * 5
    assert asked == ["/robots.txt", "/0.png", "/1.png", "/2.png", "/3.png", "/4.png", "/1.png"]


NO_HOSTS = ["http://bad host/1.png", "http://h:99999/a.png", "http://*.h.com/x.png", "http://user@/a.png"]
NO_HOSTS += [f"http://{'h' * 64}.com/a.png", "http://a..com/a.png"]


def test_addresses_of_no_host_are_recorded_and_no_sign_of_a_network(tmp_path, monkeypatch):
    with Web() as web:
        web.pages = pictures(2)
        sources = listed(tmp_path, [*NO_HOSTS, *map(web.url, web.pages)])
        told = pytest.raises(AirpipeError, match="2 addresses were not answered, twice")
        with network_gone(monkeypatch, 0, 10_000), told:
            score(tmp_path, sources)
        found = problems(score(tmp_path, sources))
    assert ["no address" in problem for problem in found] == [True] * len(NO_HOSTS) + [False] * 2
    assert found[-2:] == ["", ""]


def test_a_host_has_one_name_however_it_is_spelled():
    same = ["http://Example.com/a", "http://example.com:80/b", "http://user:word@EXAMPLE.com/c"]
    assert {polite.root_of(address) for address in same} == {"http://example.com"}
    assert polite.root_of("https://example.com:443/a") == "https://example.com"
    assert polite.root_of("http://[::1]:8080/a") == "http://[::1]:8080"


def test_a_host_that_limits_what_it_gives_stops_the_job_and_the_next_run_goes_on(tmp_path):
    with Web() as web:
        web.pages = pictures(scoring.LIMITED + 2)
        for page in list(web.pages.values())[2:]:
            page.answers = [(429, {}, b"")] * 2
        sources = listed(tmp_path, map(web.url, web.pages))
        with pytest.raises(AirpipeError, match=r"gave none of 10 pictures in a row, asked twice; .*run again later"):
            score(tmp_path, sources)
        assert problems(score(tmp_path, sources)) == [""] * len(web.pages)


def test_why_nobody_answered_is_said_in_the_same_words_in_every_run():
    words = why_no_answer(
        requests.ConnectionError(
            "HTTPConnectionPool(host='h', port=80): Max retries exceeded (Caused by NewConnectionError("
            "'<urllib3.connection.HTTPConnection object at 0x7f12ab34cd56>: [Errno 101] Network is unreachable'))"
        )
    )
    assert "0x" not in words and "Network is unreachable" in words


def test_an_address_of_two_lists_is_fetched_once(tmp_path, monkeypatch):
    @contextmanager
    def other_was_first(guard):
        (guard.parent / place.name).write_bytes(b"whole")
        yield

    with Web() as web:
        web.pages = pictures(1)
        fetcher = Fetcher(tmp_path, 1000)
        place = fetcher.place(web.url("/0.png"))
        place.parent.mkdir(parents=True)
        monkeypatch.setattr(polite, "only_process", other_was_first)
        assert fetcher.fetch(web.url("/0.png")).read_bytes() == b"whole"
        assert [path for _, path, _ in web.log] == ["/robots.txt"]


# robots.txt


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_host_whose_rules_cannot_be_had_now_is_not_asked_and_tried_again_in_the_next_run(tmp_path, status):
    with Web() as web:
        web.pages = {"/robots.txt": Page(answers=[(status, {}, b"")] * 3), **pictures(2)}
        sources = listed(tmp_path, [web.url("/0.png"), web.url("/1.png")])
        with pytest.raises(AirpipeError, match=rf"not asked for, since .*/robots.txt answered {status}. Look whether"):
            score(tmp_path, sources)
        assert {path for _, path, _ in web.log} == {"/robots.txt"}
        assert problems(score(tmp_path, sources)) == ["", ""]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_host_without_rules_forbids_nothing(tmp_path, status):
    with Web() as web:
        web.pages = {"/robots.txt": Page(answers=[(status, {}, b"User-agent: *\nDisallow: /\n")]), **pictures(1)}
        assert problems(score(tmp_path, listed(tmp_path, [web.url("/0.png")]))) == [""]


def test_a_host_that_asks_to_wait_is_told_apart_from_one_that_forbids(tmp_path):
    with Web() as web:
        web.pages = {"/robots.txt": Page(answers=[(503, {}, b"")]), **pictures(1)}
        fetcher = Fetcher(tmp_path, 1000)
        for _ in range(2):
            with pytest.raises(Unanswered, match="robots.txt answered 503"):
                fetcher.fetch(web.url("/0.png"))
        assert len(web.log) == 1
        fetcher.new_round()
        assert fetcher.fetch(web.url("/0.png")).stat().st_size == len(PICTURE) + 1


@pytest.mark.parametrize(
    ("rules", "allowed", "forbidden"),
    [
        ("User-agent: *\nDisallow: /a", ["/b/a", "/"], ["/a", "/abc", "/a/b?c"]),
        ("User-agent: *\nDisallow: /*.png$", ["/1.png?x", "/1.jpg"], ["/1.png", "/a/b.png"]),
        ("User-agent: *\nDisallow: /*?", ["/a"], ["/a?b", "/?b"]),
        ("User-agent: *\nDisallow: /a*c*e", ["/abde", "/e/a"], ["/ace", "/abcdef"]),
        ("User-agent: *\nDisallow: /a$", ["/ab", "/a/"], ["/a"]),
        ("User-agent: *\nDisallow: /*aa$", ["/a"], ["/aaa", "/aa"]),
        ("User-agent: *\nDisallow: /\nAllow: /open", ["/open/1"], ["/1"]),  # the longest counts, not the first
        ("User-agent: *\nAllow: /a\nDisallow: /a", ["/a"], []),  # of two equal ones that which allows
        ("User-agent: *\nDisallow:", ["/a"], []),
        ("User-agent: *\nDisallow: /%7Ea%20b", ["/a"], ["/~a b", "/~a%20b"]),
        ("user-AGENT : other\nUser-agent: AirPipe/1.0 # us\nDISALLOW: /a\nUser-agent: *\nDisallow: /", ["/b"], ["/a"]),
        ("User-agent: airpipe\nDisallow: /a\nUser-agent: x\nAllow: /\nUser-agent: airpipe\nAllow: /b", ["/b"], ["/a"]),
        ("User-agent: airpipe\nSitemap: /s\nUser-agent: x\nDisallow: /a", ["/b"], ["/a"]),
        ("User-agent: other\nDisallow: /", ["/a"], []),
        ("<html>no rules\0\n:::\nDisallow: /", ["/a"], []),
    ],
)  # fmt: skip
def test_rules_mean_what_rfc_9309_says(rules, allowed, forbidden):
    found = parse_rules(rules, "airpipe")
    assert [path for path in (*allowed, *forbidden) if found.allow(f"http://h{path}")] == allowed


def test_the_slowest_pace_that_is_asked_for_counts_and_nonsense_does_not():
    assert parse_rules("User-agent: *\nCrawl-delay: 2.5\nCrawl-delay: 1", "airpipe").delay == 2.5
    for nonsense in ("nan", "-3", "1e9", "soon", ""):
        assert parse_rules(f"User-agent: *\nCrawl-delay: {nonsense}", "airpipe").delay == 0


def test_rules_behind_a_mark_of_utf8_are_read(tmp_path):
    with Web() as web:
        web.pages = {"/robots.txt": Page(b"\xef\xbb\xbfUser-agent: *\nDisallow: /\n", kind="text/plain")}
        with pytest.raises(AirpipeError, match="robots.txt does not let us"):
            Fetcher(tmp_path, 1000).fetch(web.url("/0.png"))
