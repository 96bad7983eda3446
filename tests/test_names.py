import pytest

from airpipe.settings.names import ModelId, ModelName


@pytest.mark.parametrize(
    "text",
    ["none", "imported/nafnet", "imported/dynet@s", "dcpt/nafnet_5d/seed0/finetune", "dynet/all_3/seed12/train@l"],
)
def test_a_model_id_is_read_and_written_alike(text):
    assert str(ModelId.parse(text)) == text


def test_variants_share_the_folder_of_their_weights():
    model = ModelId.parse("dynet/all_3/seed12/train@l")
    assert (model.folder, model.variant, model.seed) == ("dynet/all_3/seed12/train", "l", 12)
    assert (str(model.name), model.name.of_seed(12)) == ("dynet/all_3/train@l", model)


@pytest.mark.parametrize(
    "text", ["", "nafnet", "a/b", "a/b/0/c", "a/b/seed0", "imported/a/b", "imported/a/seed0/b", "A/b/seed0/c", "a/b@"]
)
def test_what_is_no_model_id_is_refused(text):
    with pytest.raises(ValueError, match="no model id"):
        ModelId.parse(text)


@pytest.mark.parametrize("text", ["baseline/nafnet_5d", "vrdir/airpipe/ise", "imported/vgg16", "dynet/all_3@s"])
def test_a_name_is_read_and_written_alike(text):
    assert str(ModelName.parse(text)) == text


@pytest.mark.parametrize("text", ["none", "a/b/c/d", "imported/a/b", "a//b", "a/b@", "a/b@s/t", "../b"])
def test_what_is_no_name_is_refused_with_the_place_that_says_it(text):
    with pytest.raises(ValueError, match="table x: .* is not method/setting"):
        ModelName.parse(text, "table x")


def test_a_name_without_stage_takes_the_evaluated_one_and_imported_models_have_no_seed():
    assert str(ModelName.parse("dcpt/nafnet_5d@s").of_seed(2, "finetune")) == "dcpt/nafnet_5d/seed2/finetune@s"
    assert str(ModelName.parse("imported/vgg16").of_seed(2, "train")) == "imported/vgg16"
