import json
import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from helpers import ROOT, toy_images

from airpipe.cli.main import find_model, list_models, main
from airpipe.data.packages import locate
from airpipe.errors import AirpipeError
from airpipe.images import Picture, read_picture, write_picture
from airpipe.provenance import sha256_file
from airpipe.registry import build_network
from airpipe.weights.checkpoints import save_model

SIZES = {"width": 8, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}
CARD = {"schema_version": 1, "network": {"name": "nafnet", "arguments": SIZES}}
MODEL = "baseline/nafnet_5d/seed0/train"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with one trained model below results/."""
    root = tmp_path_factory.mktemp("checkout")
    network = build_network("nafnet", **SIZES)
    card = CARD | {"parameters": 12_345, "step": 40, "finished": "2026-01-02T03:04:05"}
    save_model(root / "results" / MODEL, network, card)
    (root / "results" / MODEL / "config.yaml").write_text("scale: demo\n")
    save_model(root / "results" / MODEL / "state" / "last", network, card)
    return root


@pytest.fixture
def here(checkout, monkeypatch, tmp_path):
    """Work in the checkout; photos lie in tmp_path."""
    monkeypatch.chdir(checkout)
    photo = np.ascontiguousarray(skimage.data.coffee()[100:171, 200:293])
    write_picture(tmp_path / "a.png", Picture(photo))
    write_picture(tmp_path / "b.jpg", Picture(photo))
    return tmp_path


def run(*words):
    """The command in its own process, on one thread: threads that wait for a busy core would spin."""
    command = [sys.executable, "-m", "airpipe.cli.main", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_help_names_the_commands_without_importing_torch():
    code = """
import sys
import airpipe.cli.main
try:
    airpipe.cli.main.main(["--help"])
finally:
    assert not {"torch", "numpy"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in ("restore", "models", "doctor"):
        assert command in done.stdout


@pytest.mark.parametrize("words", [[], ["restore"], ["restore", "a.png", "-m", "x", "--tile", "-1"], ["paint"]])
def test_wrong_usage_ends_with_status_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "usage: airpipe" in capsys.readouterr().err


def test_a_photo_is_restored_beside_itself_with_one_line(here, capsys):
    assert main(["restore", str(here / "a.png"), "-m", MODEL]) == 0
    captured = capsys.readouterr()
    line = r"(.*)a\.png: 93x71, 1 tile of 93x71, \d+\.\d s, peak memory \d+ MB -> (.*)a_restored\.png\n"
    assert re.fullmatch(line, captured.out)
    assert captured.err == ""
    assert read_picture(here / "a_restored.png").pixels.shape == (71, 93, 3)


def test_a_model_path_and_a_tile_size_are_taken(here, capsys):
    model = str(Path("results") / MODEL / "model.safetensors")
    words = ["restore", str(here / "a.png"), "-m", model, "-o", str(here / "new" / "c.tif")]
    assert main([*words, "--tile", "48", "--overlap", "8", "--device", "cpu"]) == 0
    assert "6 tiles of 40x40" in capsys.readouterr().out
    assert (here / "new" / "c.tif").is_file()


def test_existing_files_are_replaced_only_when_asked(here, capsys):
    target = here / "c.png"
    target.write_text("precious")
    words = ["restore", str(here / "a.png"), "-m", MODEL, "-o", str(target)]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"airpipe: error: {target}: exists, made from something else. Use --overwrite or another -o\n"
    )
    assert target.read_text() == "precious"
    assert main([*words, "--overwrite"]) == 0
    assert read_picture(target).pixels.shape == (71, 93, 3)


def test_a_bad_photo_is_told_and_the_others_are_done(here, capsys):
    (here / "bad.png").write_bytes((here / "a.png").read_bytes()[:1000])
    photos = [str(here / name) for name in ("a.png", "bad.png", "missing.png", "b.jpg")]
    assert main(["restore", *photos, "-m", MODEL, "-o", str(here / "out")]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    errors = captured.err.splitlines()
    assert "bad.png: corrupt or truncated" in errors[0]
    assert "missing.png: no such image" in errors[1]
    assert errors[2] == "airpipe: error: 2 of 4 photos failed; the others are restored"
    assert sorted(path.name for path in (here / "out").glob("[!.]*")) == ["a_restored.png", "b_restored.jpg"]


def test_two_photos_of_one_name_do_not_replace_each_other(here, capsys):
    write_picture(here / "other" / "a.png", Picture(np.zeros((8, 8, 3), np.uint8)))
    photos = [str(here / "a.png"), str(here / "other" / "a.png")]
    assert main(["restore", *photos, "-m", MODEL, "-o", str(here / "out"), "--overwrite"]) == 2
    assert "of the same name" in capsys.readouterr().err
    assert read_picture(here / "out" / "a_restored.png").pixels.shape == (71, 93, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["a.png", "b.jpg", "-m", MODEL, "-o", "one.png"],
            "one.png is one file, but a folder, a pattern or several photos",
        ),
        (["a.png", "-m", "baseline/typo"], f"no model 'baseline/typo'.*Models here: {MODEL}"),
        (["a.png", "-m", MODEL, "--device", "gpu"], "unknown device 'gpu'"),
        (["a.png", "-m", MODEL, "--device", "cuda:77"], "cuda:77' is not there"),
        (["a.png", "-m", MODEL, "--tile", "32"], "not larger than the overlap"),
        (["a.png", "-m", MODEL, "-o", "c.gif"], "cannot write .gif"),
        (["a.png", "-m", "a.png"], "a.png"),
    ],
)
def test_mistakes_are_one_line_and_status_2(here, words, message, capsys):
    placed = [str(here / word) if re.fullmatch(r"\w+\.\w+", word) else word for word in words]
    assert main(["restore", *placed]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(rf"airpipe: error: .*{message}.*\n", captured.err)


def test_the_script_is_the_command(here):
    script = Path(__file__).parents[1] / "scripts" / "restore.py"
    command = [sys.executable, script, here / "b.jpg", "-m", MODEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (here / "b_restored.jpg").is_file()


def test_tiles_bound_the_memory(here):
    big = cv2.resize(skimage.data.coffee(), (1360, 904))
    write_picture(here / "big.png", Picture(big))
    peaks = {}
    for tile in (128, 0):
        done = run(
            "restore",
            here / "big.png",
            "-m",
            MODEL,
            "--tile",
            tile,
            "-o",
            here / f"t{tile}",
            "--device",
            "cpu",
        )
        assert done.returncode == 0, done.stderr
        peaks[tile] = int(re.search(r"peak memory (\d+) MB", done.stdout)[1])
    assert peaks[128] < 0.7 * peaks[0], peaks


def test_models_lists_what_is_exported(here, capsys):
    assert main(["models"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "network", "parameters", "scale", "step", "finished"]
    assert line.split() == [MODEL, "nafnet", "12,345", "demo", "40", "2026-01-02T03:04:05"]
    assert main(["models", "--json"]) == 0
    assert [model["model"] for model in json.loads(capsys.readouterr().out)] == [MODEL]


def test_models_shows_unreadable_cards(tmp_path, capsys):
    for name, card in (("good", json.dumps(CARD)), ("empty", ""), ("list", "[]"), ("bare", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card.json").write_text(card)
        (tmp_path / name / "model.safetensors").touch()
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "card.json").write_text("{}")
    assert main(["models", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("card.json cannot be read") == 3
    assert [(m["model"], m["problem"] is None) for m in list_models(tmp_path)] == [
        ("bare", False),
        ("empty", False),
        ("good", True),
        ("list", False),
    ]


def test_no_models_is_one_line_that_says_how_to_make_one(tmp_path, capsys):
    assert main(["models", "--results", str(tmp_path / "none")]) == 0
    assert (
        capsys.readouterr().out
        == f"no models below {tmp_path / 'none'}: make one with `make demo` or `snakemake all`\n"
    )
    with pytest.raises(AirpipeError, match="make demo"):
        find_model("x", tmp_path)


def registry(sha256, root):
    return f"""datasets:
  photos:
    title: Embedded
    packages:
      - {{name: astronaut.png, package: skimage, path: data/astronaut.png, split: train, group: a,
         sha256: {sha256}}}
  mine:
    title: Mine
    home: https://example.org/mine
    root: {root}
    splits: {{test: {{clean: "*.png"}}}}
"""


def doctor(capsys):
    status = main(["doctor", "--json"])
    return status, {check["what"]: check for check in json.loads(capsys.readouterr().out)}


def test_doctor_finds_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    (tmp_path / "config").mkdir()
    digest = sha256_file(locate("skimage:data/astronaut.png"))
    (tmp_path / "config" / "datasets.yaml").write_text(registry(digest, "${MY_DATA}/config"))
    status, checks = doctor(capsys)
    assert status == 0
    for what in ("Python", "torch", "disk", "results", "data set photos", "data set mine"):
        assert checks[what]["state"] in ("ok", "note" if what == "disk" else "ok")
    assert checks["data set mine"]["found"] == str(tmp_path / "config")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets: {mine: 3}", "datasets.mine: expected a mapping with title and splits, found 3"),
        ("datasets: [a]", "datasets: expected a mapping of entries, found ['a']"),
        ("datasets: {mine: {about: 2026-01-01}}", "datasets.mine.about: expected text, a number, a list or a mapping"),
        ("datasets: {mine: {about: 2026-13-01}}", "not valid YAML (month must be in 1..12)"),
        ("datasets: " + "{a: " * 900 + "1" + "}" * 900, "nested too deeply to be read; take levels out"),
        ("datasets: " + "{a: " * 60 + "1" + "}" * 60, "expected at most 50 levels, found more; take some out"),
        ("datasets: {mine: {like: [b]}}", "datasets.mine.like: unknown data set"),
        ("datasets: {a: {like: b}, b: {like: a}}", "a -> b -> a goes round in a circle"),
        ("datasets: {mine: {titel: x}}", "unknown setting 'titel'; did you mean 'title'?"),
    ],
)
def test_a_malformed_registry_is_one_clear_error(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "datasets.yaml").write_text(text)
    assert main(["data", "list"]) == 2
    assert message in capsys.readouterr().err


def test_the_data_commands_list_show_and_check(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) > 50
    assert next(line for line in listed if line.startswith("photos ")).split()[1] == "embedded"
    assert main(["data", "show", "rain100l"]) == 0
    shown = capsys.readouterr().out
    assert "rule: rain_no" in shown
    assert "https://drive.google.com/drive/folders/" in shown
    toy_images(tmp_path / "Kodak24", count=3)
    assert main(["data", "check", "kodak24", "--root", str(tmp_path / "Kodak24")]) == 0
    assert "note: 3 images found, 24 expected" in capsys.readouterr().out
    assert main(["data", "check", "kodak24.tset"]) == 2
    assert "unknown split 'tset'; did you mean 'test'?" in capsys.readouterr().err
    assert main(["data", "fetch", "photos"]) == 2
    assert "ships inside installed packages" in capsys.readouterr().err


def test_doctor_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor"]) == 0  # no GPU, no Slurm, no registry: notes
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("note     Slurm: no sbatch") for line in lines)
    assert any(line.startswith("note     data: no config/datasets.yaml") for line in lines)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "datasets.yaml").write_text(registry("f" * 64, "${NOT_SET}/x"))
    status, checks = doctor(capsys)
    assert status == 1
    assert checks["data set photos"]["state"] == "problem"
    assert "another sha256" in checks["data set photos"]["found"]
    assert checks["data set mine"]["state"] == "note"
    assert "example.org" in checks["data set mine"]["remedy"]


def test_doctor_reports_a_broken_registry(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "datasets.yaml").write_text("datasets: {photos: {titel: x}}\n")
    status, checks = doctor(capsys)
    assert status == 1
    assert "titel" in checks["data"]["found"]


def test_doctor_finds_results_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").write_text("a file in the way")
    status, checks = doctor(capsys)
    assert status == 1
    assert checks["results"]["state"] == "problem"


def test_doctor_says_what_does_for_dvc_where_results_are_a_link(tmp_path, monkeypatch, capsys):
    (tmp_path / "disk").mkdir()
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/results").symlink_to(tmp_path / "disk")
    monkeypatch.chdir(tmp_path / "checkout")
    assert "DVC" not in doctor(capsys)[1]  # nobody uses it here
    Path("dvc.yaml").write_text("stages: {}\n")
    check = doctor(capsys)[1]["DVC"]
    assert (check["state"], check["found"]) == ("note", f"results is a link to {tmp_path / 'disk'}")
    assert "make results/ a folder and link the large folders in it instead" in check["remedy"]


@pytest.mark.parametrize(
    ("hosts", "state", "found", "remedy"),
    [
        (socket.gethostname(), "note", "locks of one that died on this host", "`snakemake --unlock` does so now"),
        ("node7", "note", "locks of a run on node7", "If no Snakemake works on this folder any more"),
        (None, "ok", "at work in this folder", ""),
    ],
)
def test_doctor_tells_whose_locks_snakemake_has_left(tmp_path, monkeypatch, capsys, hosts, state, found, remedy):
    monkeypatch.chdir(tmp_path)
    Path(".snakemake/locks").mkdir(parents=True)
    Path(".snakemake/airpipe.runs").write_text(f"{hosts}\n")
    assert "Snakemake" not in doctor(capsys)[1]
    Path(".snakemake/locks/0.output.lock").write_text("results/a\n")
    if hosts is None:
        monkeypatch.setattr("airpipe.data.locks._alone", lambda handle: False)
    check = doctor(capsys)[1]["Snakemake"]
    assert (check["state"], check["found"]) == (state, found) and remedy in check["remedy"]


def test_doctor_without_torch_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else find_spec(name))
    status, checks = doctor(capsys)
    assert status == 1
    assert "make setup" in checks["torch"]["remedy"]
