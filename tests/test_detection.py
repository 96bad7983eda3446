"""Average precision of detections equals hand-computed cases and a plain restatement; foreign files are told."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT

from airpipe.errors import AirpipeError
from airpipe.evaluation.detection import RECALLS, average_precision, overlaps, read_detections, read_truth


def write(folder, name, content):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def truth_of(objects, images=1, categories=1):
    """Annotations from (image, category, box[, crowd])."""
    rows = [
        {"id": i, "image_id": o[0], "category_id": o[1], "bbox": o[2], "iscrowd": int(len(o) > 3 and o[3])}
        for i, o in enumerate(objects)
    ]
    return {
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": i, "name": f"c{i}"} for i in range(categories)],
        "annotations": rows,
    }


def said_of(detections):
    return [{"image_id": d[0], "category_id": d[1], "bbox": d[2], "score": d[3]} for d in detections]


def score(folder, objects, detections, **counts):
    truth = read_truth(write(folder, "truth.json", truth_of(objects, **counts)))
    return average_precision(truth, read_detections(write(folder, "said.json", said_of(detections)), truth))


BOX, FAR = [10, 10, 10, 10], [50, 50, 10, 10]


def test_boxes_that_fit_are_worth_100_and_wrong_ones_0(tmp_path):
    objects = [(0, 0, BOX), (0, 0, FAR)]
    assert score(tmp_path, objects, [(0, 0, BOX, 0.9), (0, 0, FAR, 0.8)]) == {"AP": 100, "AP50": 100, "AP75": 100}
    assert score(tmp_path, objects, [(0, 0, [80, 10, 5, 5], 0.9)]) == {"AP": 0, "AP50": 0, "AP75": 0}
    assert score(tmp_path, objects, []) == {"AP": 0, "AP50": 0, "AP75": 0}


def test_a_box_that_overlaps_by_0_6_counts_for_three_of_ten_thresholds(tmp_path):
    # 10x10 against 10x6 inside it: 60 of 100 pixels, so that 0.50, 0.55 and 0.60 take it
    found = score(tmp_path, [(0, 0, BOX)], [(0, 0, [10, 10, 10, 6], 0.9)])
    assert found == {"AP": pytest.approx(30), "AP50": 100, "AP75": 0}


def test_half_of_the_objects_found_is_the_share_of_recalls_up_to_a_half(tmp_path):
    found = score(tmp_path, [(0, 0, BOX), (0, 0, FAR)], [(0, 0, BOX, 0.9)])
    assert found["AP50"] == pytest.approx(100 * 51 / 101)  # recalls 0.00 to 0.50 of 101


def test_a_false_alarm_before_the_hit_halves_precision_and_one_behind_it_costs_nothing(tmp_path):
    wrong = [70, 10, 5, 5]
    assert score(tmp_path, [(0, 0, BOX)], [(0, 0, wrong, 0.9), (0, 0, BOX, 0.8)])["AP50"] == pytest.approx(50)
    assert score(tmp_path, [(0, 0, BOX)], [(0, 0, BOX, 0.9), (0, 0, wrong, 0.8)])["AP50"] == 100


def test_an_object_is_found_once_and_the_better_score_takes_it(tmp_path):
    twice = [(0, 0, BOX, 0.9), (0, 0, BOX, 0.8), (0, 0, FAR, 0.7)]
    found = score(tmp_path, [(0, 0, BOX), (0, 0, FAR)], twice)
    # hits: right, wrong, right; precision 1 up to recall 0.5, then 2/3
    assert found["AP50"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


def test_a_crowd_region_takes_any_number_of_detections_which_then_do_not_count(tmp_path):
    objects = [(0, 0, BOX), (0, 0, [40, 40, 40, 40], True)]
    inside = [(0, 0, [45 + i, 45, 8, 8], 0.95 - i / 100) for i in range(4)]
    assert score(tmp_path, objects, [*inside, (0, 0, BOX, 0.5)])["AP50"] == 100


def test_only_100_detections_of_an_image_and_category_count(tmp_path):
    wrong = [(0, 0, [200 + i, 0, 1, 1], 0.9) for i in range(100)]
    assert score(tmp_path, [(0, 0, BOX)], [*wrong, (0, 0, BOX, 0.1)])["AP50"] == 0
    assert score(tmp_path, [(0, 0, BOX)], [*wrong[:99], (0, 0, BOX, 0.1)])["AP50"] == pytest.approx(1)
    objects = [(0, 0, BOX), (0, 1, BOX)]
    assert score(tmp_path, objects, [*wrong, (0, 1, BOX, 0.1)], categories=2)["AP50"] == 50


def test_crowd_regions_alone_are_nothing_to_score_against(tmp_path):
    with pytest.raises(AirpipeError, match=r"all 2 annotations are crowd regions .* Name the annotations of the test"):
        read_truth(write(tmp_path, "truth.json", truth_of([(0, 0, BOX, True), (0, 0, FAR, True)])))


def test_categories_without_objects_have_no_say(tmp_path):
    found = score(tmp_path, [(0, 0, BOX)], [(0, 0, BOX, 0.9), (0, 1, FAR, 0.9)], categories=2)
    assert found["AP50"] == 100


def test_overlap_with_a_crowd_is_that_of_the_detection_alone():
    boxes, others = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 20, 10], [0, 0, 20, 10]])
    assert overlaps(boxes, others, np.array([False, True])).tolist() == [[0.5, 1.0]]


def plain_average_precision(truth, said, threshold):
    """The protocol once more, one detection after the other."""
    values = []
    for category in {c["id"] for c in truth["categories"]}:
        objects = [dict(a, used=False) for a in truth["annotations"] if a["category_id"] == category]
        total = sum(1 for a in objects if not a["iscrowd"])
        if not total:
            continue
        kept = []
        for image in sorted(i["id"] for i in truth["images"]):
            here = [d for d in said if (d["category_id"], d["image_id"]) == (category, image)]
            for detection in sorted(here, key=lambda d: -d["score"])[:100]:
                best, best_share, state = None, threshold, None
                for crowd in (0, 1):
                    for other in objects:
                        if other["image_id"] != image or other["iscrowd"] != crowd or (other["used"] and not crowd):
                            continue
                        share = plain_overlap(detection["bbox"], other["bbox"], crowd)
                        if share >= best_share and (state in (None, crowd)):
                            best, best_share, state = other, share, crowd
                    if best is not None:
                        break
                if best is not None:
                    best["used"] = True
                kept.append((detection["score"], best is not None and not best["iscrowd"], best))
        kept = [k for k in kept if not (k[2] and k[2]["iscrowd"])]
        kept.sort(key=lambda k: -k[0])
        points, right = [], 0
        for number, (_, hit, _) in enumerate(kept, start=1):
            right += hit
            points.append((right / total, right / number))
        at = [max((p for r, p in points if r >= recall), default=0.0) for recall in RECALLS]
        values.append(sum(at) / 101)
    return 100 * sum(values) / len(values)


def plain_overlap(a, b, crowd):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - shared)


@pytest.mark.parametrize("seed", range(8))
def test_random_detections_score_as_in_a_plain_restatement(seed, tmp_path):
    generator = np.random.default_rng(seed)

    def box():
        return [float(x) for x in (*generator.integers(0, 40, 2), *generator.integers(5, 30, 2))]

    objects = [
        (int(generator.integers(4)), int(generator.integers(3)), box(), bool(generator.random() < 0.15))
        for _ in range(25)
    ]
    objects.append((0, 0, box()))
    detections = [
        (o[0], o[1], [v + float(generator.normal(0, 2)) if i < 2 else v for i, v in enumerate(o[2])], 0.0)
        for o in objects
    ]
    detections += [(int(generator.integers(4)), int(generator.integers(3)), box(), 0.0) for _ in range(30)]
    detections = [(*d[:3], round(float(generator.random()), 6)) for d in detections]
    content, said = truth_of(objects, images=4, categories=3), said_of(detections)
    truth = read_truth(write(tmp_path, "truth.json", content))
    found = average_precision(truth, read_detections(write(tmp_path, "said.json", said), truth))
    expected = [plain_average_precision(content, said, 0.5 + 0.05 * step) for step in range(10)]
    assert found["AP50"] == pytest.approx(expected[0], abs=1e-9)
    assert found["AP75"] == pytest.approx(expected[5], abs=1e-9)
    assert found["AP"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert 5 < found["AP50"] < 95


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "expected an object with lists images, annotations, categories; found a list"),
        ({"images": []}, "found images"),
        (truth_of([]), "no annotations; there is nothing to detect"),
        (truth_of([(0, 0, [1, 2, 0, 4])]), r"bbox \[1, 2, 0, 4\]; expected \[x, y, width, height\]"),
        (truth_of([(3, 0, BOX)]), "image 3 is not in the annotations"),
        ({**truth_of([(0, 0, BOX)]), "images": [{"id": 0}, {"id": 0}]}, "images: id 0 stands twice"),
        ({**truth_of([(0, 0, BOX)]), "categories": [{"id": "cat"}]}, "expected a whole number under id, found 'cat'"),
    ],
)
def test_foreign_annotations_are_told(tmp_path, content, message):
    with pytest.raises(AirpipeError, match=message):
        read_truth(write(tmp_path, "truth.json", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": []}, "expected a list of detections .* found a dict. Annotations are no detections"),
        (said_of([(9, 0, BOX, 1)]), r"image 9 is not in the annotations \(1: 0...\). Give the detections of this test"),
        (said_of([(0, 7, BOX, 1)]), "category 7 is not in the annotations"),
        (said_of([(0, 0, BOX, None)]), "expected a number under score, found None"),
        (said_of([(0, 0, BOX, float("nan"))]), "expected a number under score, found nan"),
        (said_of([(0, 0, [1, 2, 3], 1)]), "bbox"),
        ([3], "expected a whole number under category_id, found None"),
    ],
)
def test_foreign_detections_are_told(tmp_path, content, message):
    truth = read_truth(write(tmp_path, "truth.json", truth_of([(0, 0, BOX)])))
    with pytest.raises(AirpipeError, match=message):
        read_detections(write(tmp_path, "said.json", content), truth)
    (tmp_path / "said.json").write_text("{")
    with pytest.raises(AirpipeError, match="cannot be read as JSON"):
        read_detections(tmp_path / "said.json", truth)


def scored(folder, *detections):
    """Run the script on one object."""
    truth = write(folder, "truth.json", truth_of([(0, 0, BOX)]))
    command = [sys.executable, str(ROOT / "scripts/score_detections.py"), "--annotations", str(truth)]
    command += ["--detections", *detections, "--output", str(folder / "ap.csv")]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_script_writes_one_row_per_variant_and_metric(tmp_path):
    said = [write(tmp_path, f"{n}.json", said_of([(0, 0, b, 1)])) for n, b in (("degraded", FAR), ("restored", BOX))]
    done = scored(tmp_path, *(f"{path.stem}={path}" for path in said))
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "ap.csv").read_text().split()
    assert rows[0] == "variant,metric,value"
    assert rows[1:] == [
        f"{v},{m},{x}" for v, x in (("degraded", 0.0), ("restored", 100.0)) for m in ("AP", "AP50", "AP75")
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("degraded",), "--detections 'degraded': expected variant=file, for example degraded=degraded.json"),
        (("=said.json",), "--detections '=said.json': expected variant=file"),
        (("a=said.json", "a=other.json"), "a stands for said.json and other.json; call one otherwise"),
    ],
)
def test_the_script_refuses_what_names_no_variant_of_its_own(texts, message, tmp_path):
    done = scored(tmp_path, *texts)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "ap.csv").exists()
