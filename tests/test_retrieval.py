"""Retrieval: scores equal hand-computed cases and a plain restatement; what cannot be ranked is told."""

import numpy as np
import pytest

from airpipe.errors import AirpipeError
from airpipe.evaluation.retrieval import Entries, random_precision, retrieve


def listed(vectors, identities, images=None, cameras=()):
    images = images or [f"{id(identities)}_{i}" for i in range(len(identities))]
    return Entries(np.array(vectors, np.float32), identities, images, cameras)


ALONG = {"a": [1.0, 0.0], "b": [0.0, 1.0], "near_a": [1.0, 0.2], "between": [1.0, 1.0]}


def test_rank_and_precision_of_a_query_whose_matches_stand_second_and_third():
    gallery = listed([ALONG["a"], ALONG["near_a"], ALONG["between"], ALONG["b"]], ["y", "x", "x", "y"])
    found = retrieve(listed([[1.0, 0.01]], ["x"]), gallery)
    assert (found["rank1"], found["rank5"]) == (0, 100)
    assert found["map"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert (found["queries"], found["without_match"], found["gallery"]) == (1, 0, 4)
    assert found["chance_rank1"] == 50


def test_length_of_embeddings_means_nothing():
    gallery = listed([ALONG["a"], ALONG["b"]], ["x", "y"])
    long = listed([[50.0, 0], [0, 0.001]], ["x", "y"])
    assert retrieve(long, gallery)["rank1"] == 100


def test_a_query_that_stands_in_the_gallery_does_not_find_itself():
    images = ["one", "two", "three"]
    entries = listed([ALONG["a"], ALONG["b"], ALONG["near_a"]], ["x", "x", "y"], images)
    found = retrieve(entries, entries)
    assert found["queries"] == 2 and found["without_match"] == 1  # y has no other image
    # one: three is nearest; two: three is nearest, then one
    assert found["rank1"] == 0 and found["map"] == 50


def test_images_of_the_same_identity_and_camera_are_left_out_and_junk_is_ignored():
    gallery = listed(
        [ALONG["a"], ALONG["a"], ALONG["b"], ALONG["near_a"]],
        ["x", "-1", "x", "y"],
        cameras=["1", "2", "2", "1"],
    )
    found = retrieve(listed([ALONG["a"]], ["x"], cameras=["1"]), gallery)
    assert found["gallery"] == 3
    assert found["rank1"] == 0 and found["map"] == 50  # y (another identity, same camera) counts, then x by camera 2
    assert found["chance_rank1"] == 50
    without_cameras = retrieve(listed([ALONG["a"]], ["x"]), listed(gallery.embeddings, gallery.identities))
    assert without_cameras["rank1"] == 100


def test_equal_similarities_stand_in_the_order_of_the_gallery():
    vectors = [ALONG["a"], [2.0, 1e-8]]
    first = retrieve(listed([ALONG["a"]], ["x"]), listed(vectors, ["x", "y"]))
    second = retrieve(listed([ALONG["a"]], ["x"]), listed(vectors, ["y", "x"]))
    assert (first["rank1"], second["rank1"]) == (100, 0)


def plain_retrieval(queries, gallery):
    """Market-1501's protocol, one query after the other."""
    firsts, precisions = [], []
    for q, identity in enumerate(queries.identities):
        if identity == "-1":
            continue
        ranked = []
        for g, other in enumerate(gallery.identities):
            same_camera = queries.cameras[q] == gallery.cameras[g] != ""
            if other == "-1" or queries.images[q] == gallery.images[g] or (other == identity and same_camera):
                continue
            a, b = queries.embeddings[q].astype(float), gallery.embeddings[g].astype(float)
            ranked.append((-a @ b / np.linalg.norm(a) / np.linalg.norm(b), g, other == identity))
        hits = [hit for _, _, hit in sorted(ranked)]
        if any(hits):
            places = [place for place, hit in enumerate(hits, start=1) if hit]
            firsts.append(places[0])
            precisions.append(np.mean([n / place for n, place in enumerate(places, start=1)]))
    return {"rank1": 100 * np.mean(np.array(firsts) == 1), "rank5": 100 * np.mean(np.array(firsts) <= 5),
            "map": 100 * np.mean(precisions), "queries": len(firsts)}  # fmt: skip


@pytest.mark.parametrize("chunk", [2**23, 50])
def test_random_embeddings_score_as_in_a_plain_restatement(chunk, monkeypatch):
    monkeypatch.setattr("airpipe.evaluation.retrieval.CHUNK", chunk)
    generator = np.random.default_rng(4)
    names = ["-1", "0000", *"abcdef"]

    centres = generator.normal(size=(len(names), 8))

    def entries(count):
        chosen = generator.integers(len(names), size=count)
        vectors = generator.normal(size=(count, 8)) + centres[chosen]
        images = [str(i) for i in generator.integers(60, size=count)]
        cameras = [str(c) for c in generator.integers(3, size=count)]
        return Entries(vectors.astype(np.float32), [names[i] for i in chosen], images, cameras)

    queries, gallery = entries(40), entries(60)
    found, expected = retrieve(queries, gallery), plain_retrieval(queries, gallery)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["queries"] + found["without_match"] == sum(name != "-1" for name in queries.identities)
    assert found["chance_map"] + 15 < found["map"] < 95  # identities are told apart, not perfectly


def test_chance_is_what_random_orders_reach():
    generator = np.random.default_rng(0)
    orders = [generator.permutation(20) < 5 for _ in range(4000)]
    precisions = [np.mean(np.arange(1, 6) / (np.flatnonzero(order) + 1)) for order in orders]
    assert random_precision(np.array([5]), np.array([20]))[0] == pytest.approx(np.mean(precisions), rel=0.02)
    assert random_precision(np.array([1]), np.array([1]))[0] == 1


def test_a_gallery_without_any_match_is_told():
    with pytest.raises(AirpipeError, match="none of the 1 queries has an image of its identity in the gallery of 1"):
        retrieve(listed([ALONG["a"]], ["x"]), listed([ALONG["b"]], ["y"]))
    with pytest.raises(AirpipeError, match="embeddings of the queries are not finite"):
        retrieve(listed([[np.nan, 1]], ["x"]), listed([ALONG["b"]], ["x"]))
    with pytest.raises(AirpipeError, match=r"embeddings of \[1, 2\] numbers"):
        retrieve(listed([[1.0]], ["x"]), listed([ALONG["b"]], ["x"]))
