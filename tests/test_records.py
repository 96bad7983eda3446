"""What a method trained, as two small tables."""

import json

import pytest

from airpipe.errors import AirpipeError
from airpipe.provenance import sha256_file
from airpipe.reporting.records import record_training


def trained(results, name, weights):
    folder = results / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "card.json").write_text(json.dumps({"network": {"name": "nafnet"}, "step": 12}))
    (folder / "curves.csv").write_text("step,name,value\n6,loss/pixel,0.5\n12,validation/psnr,20.25\n")
    return folder


def test_each_model_has_a_row_with_the_hash_of_its_weights(tmp_path):
    folders = [trained(tmp_path, name, name.encode()) for name in ("a/b/seed0/train", "a/b/seed1/train")]
    models, curves = record_training(folders, tmp_path)
    assert models.to_dict("list") == {
        "model": ["a/b/seed0/train", "a/b/seed1/train"],
        "network": ["nafnet", "nafnet"],
        "steps": [12, 12],
        "sha256": [sha256_file(folder / "model.safetensors") for folder in folders],
    }
    assert curves.to_csv(index=False) == (
        "model,step,name,value\na/b/seed0/train,12,psnr,20.25\na/b/seed1/train,12,psnr,20.25\n"
    )


def test_what_validation_measured_of_a_variant_is_recorded_under_its_name(tmp_path):
    folder = trained(tmp_path, "a/b/seed0/train", b"weights")
    card = {"network": {"name": "nafnet"}, "step": 12, "variants": {"s": {"depth": 1}, "clean": {"depth": 2}, "l": {}}}
    (folder / "card.json").write_text(json.dumps(card))
    rows = ["step,name,value", "6,loss/pixel_s,0.5", "6,validation/psnr_s,20.5", "6,validation/l1_s,0.125"]
    rows += ["6,validation/psnr_clean,30.5", "6,validation/psnr,22.5", "12,validation/psnr_s,21.5"]
    (folder / "curves.csv").write_text("\n".join(rows))
    _, curves = record_training([folder], tmp_path)
    assert curves.to_csv(index=False).splitlines()[1:] == [
        "a/b/seed0/train,6,psnr,22.5",
        "a/b/seed0/train@s,6,psnr,20.5",
        "a/b/seed0/train@s,6,l1,0.125",
        "a/b/seed0/train@s,12,psnr,21.5",
        "a/b/seed0/train@clean,6,psnr,30.5",
    ]


def test_no_models_make_tables_with_columns_and_no_rows(tmp_path):
    models, curves = record_training([], tmp_path)
    assert (len(models), len(curves)) == (0, 0)
    assert [*curves.columns] == ["model", "step", "name", "value"]
    assert [*models.columns] == ["model", "network", "steps", "sha256"]


def test_a_folder_without_a_finished_model_is_named(tmp_path):
    folder = trained(tmp_path, "a/b/seed0/train", b"weights")
    (folder / "model.safetensors").unlink()
    with pytest.raises(AirpipeError, match="a/b/seed0/train: no finished model .*Train it: snakemake"):
        record_training([folder], tmp_path)
