"""What a card says of its training stands in every row of the model, whatever the table shows."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from reported import MODELS, Tree
from test_recognition_tables import STORY
from test_recognition_tables import results as recognised

from airpipe.reporting import page
from airpipe.reporting.builders.efficiency import efficiency_table
from airpipe.reporting.builders.published import build_published
from airpipe.reporting.builders.recognition import recognition_table, restoration_table
from airpipe.reporting.marks import marked
from airpipe.reporting.published import published_frame, read_all
from airpipe.reporting.table import latex, markdown, read_frame, read_table, without_seed, write_table
from airpipe.training.run import card_notes

NOTE = "no such loss (loss: none)"
NOTED = MODELS[2]


@pytest.fixture
def tree(tmp_path):
    tree = Tree(tmp_path)
    tree.cards[NOTED]["notes"] = [NOTE]
    return tree


def tables(tree):
    """A table of every kind that shows the noted model."""
    scores, gains = tree.tables()
    with tree.published[0].open("a") as stream:
        stream.write("NAFNet,nafnet,allinone5,average,all,,dcpt,psnr,31.02,A paper,Table 1,primary,\n")
    printed = read_all(tree.published)
    ours = scores.frame[(scores.frame["model"] != "published") & (scores.frame["against"] == "")]
    ours = ours.assign(model=ours["model"].replace("baseline/nafnet_5d/train", without_seed(NOTED)))
    by_name = {without_seed(NOTED): tree.cards[NOTED]}
    return {
        "scores": scores,
        "by protocol": tree.tables(columns="protocol")[0],
        "gains": gains,
        "efficiency": efficiency_table([tree.root / "complexity" / f"{model}.json" for model in MODELS], tree.cards),
        "published": build_published(published_frame(printed, ours, by_name), printed.known),
    }


@pytest.mark.parametrize("kind", ["scores", "by protocol", "gains", "efficiency", "published"])
def test_every_row_of_a_noted_model_is_marked_and_no_other(tree, kind):
    table = marked(tables(tree)[kind], tree.cards)
    lines = [line for block in table.blocks for line in block.lines]
    shown = [without_seed(NOTED) in map(without_seed, line.models) for line in lines]
    assert [line.noted for line in lines] == shown and any(shown) and not all(shown)
    assert [note for note in table.notes if note[0] == "‡"] == [f"‡ dcpt/nafnet_5d/finetune: {NOTE}."]
    frame = table.frame
    assert frame.columns[-1] == "note" and set(frame["note"]) == {"", NOTE}
    assert ((frame["note"] == NOTE) == (frame["model"].map(without_seed) == without_seed(NOTED))).all()


@pytest.mark.parametrize("build", [recognition_table, restoration_table])
def test_recognition_tables_mark_enhancers(build):
    table = marked(build(recognised(), STORY), {"vrdir/airpipe/seed0/sad": {"notes": [NOTE]}})
    labels = {line.label for block in table.blocks for line in block.lines if line.noted}
    assert labels == {"vrdir/airpipe, decoder only"}
    assert set(table.frame.loc[table.frame["note"] == NOTE, "model"]) == {"vrdir/airpipe/sad"}


def test_marks_stand_in_every_file_and_come_back(tree):
    table = marked(tree.tables()[0], tree.cards)
    assert "| dcpt/nafnet_5d ‡ |" in markdown(table) and f"- ‡ dcpt/nafnet_5d/finetune: {NOTE}." in markdown(table)
    assert "dcpt/nafnet\\_5d $^\\ddagger$ &" in latex(table)
    write_table(table, tree.root)
    assert [line.noted for line in read_table(tree.root / "all.json").blocks[0].lines] == [False, False, True]
    assert set(read_frame(tree.root / "all.csv")["note"]) == {"", NOTE}
    sources = page.Sources({"all": [tree.root / "all.json"]}, [], [], [], tree.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "read_scenes", lambda *_: [])
        patch.setattr(page, "all_gains", lambda *_: tree.tables()[1].frame)
        page.write_page(sources, tree.cards, {"title": "", "protocol": "", "jpeg_quality": 80}, "demo", tree.root / "p")
    text = (tree.root / "p").read_text().replace("<wbr>", "")
    assert "dcpt/nafnet_5d ‡</th>" in text and "baseline/nafnet_5d ‡" not in text
    assert NOTE in text.partition('id="provenance"')[2]


def test_seeds_and_variants_of_a_model_share_their_notes(tree):
    tree.cards[MODELS[0]]["notes"], tree.cards[MODELS[1]]["notes"] = ["one", "both"], ["both", "two"]
    notes = marked(tree.tables()[0], tree.cards).notes
    assert "‡ baseline/nafnet_5d/train: one; both; two." in notes
    gains = tree.tables()[1]
    variant = gains.frame.assign(model=f"{NOTED}@s")
    assert set(marked(replace(gains, frame=variant), tree.cards).frame["note"]) == {NOTE}


# Where notes come from


def write_card(folder: Path, **facts) -> Path:
    folder.mkdir()
    network = {"name": "nafnet", "arguments": {}}
    (folder / "card.json").write_text(json.dumps({"network": network, "model": f"a/b/seed0/{folder.name}", **facts}))
    return folder / "model.safetensors"


def test_notes_are_those_of_the_task_of_absent_parents_and_of_the_parents_cards(tmp_path):
    parents = {
        "init": write_card(tmp_path / "first", notes=["lacks one"]),
        "guide": write_card(tmp_path / "second"),
        "old": tmp_path / "nowhere" / "published.pth",
    }
    found = card_notes(SimpleNamespace(notes=("lacks another",)), {"vgg": "imported/vgg19"}, parents)
    assert found == [
        "trained without imported/vgg19 (parent vgg is absent)",
        "lacks another",
        "in its parent a/b/seed0/first: lacks one",
    ]
    assert card_notes(SimpleNamespace(notes=()), {}, {}) == []
