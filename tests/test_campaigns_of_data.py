"""A share of the campaigns of images, servers and model files: no fault."""

from campaigns import checkpoints, images, network


def test_forty_images_whole_and_damaged_are_restored_rightly_or_refused_in_one_line(tmp_path):
    outcome = images.run(40, 3, tmp_path)
    assert outcome.faults == []
    assert outcome.counts["restored"] > 8 < outcome.counts["refused"]


def test_every_way_of_a_server_to_misbehave_ends_with_the_data_set(tmp_path):
    outcome = network.run(len(network.SCENARIOS), 3, tmp_path)
    assert outcome.faults == []
    assert outcome.counts["from the next source"] > 10


def test_thirty_model_files_and_cards_are_taken_or_refused_in_one_line(tmp_path):
    outcome = checkpoints.run(30, 3, tmp_path)
    assert outcome.faults == []
    assert outcome.counts["taken"] > 3 and outcome.counts["refused"] > 12
