"""What cards note, and no row may hide: rows of such models are marked, notes say why. This module needs no torch."""

from collections.abc import Mapping
from dataclasses import replace

from airpipe.reporting.reading import Card
from airpipe.reporting.table import NOTED, Line, Table, without_seed


def marked(table: Table, cards: Mapping[str, Card]) -> Table:
    """Mark every row of a model whose card has notes, whatever the table shows.

    Args:
        table: its lines name their models, and its frame has them in the column `model`.
        cards: card of each model, by its id; models without one are not marked.

    Returns:
        The table with marked lines, a note on each of their models, and a last column `note` in its frame.
    """
    known = _notes_by_model(cards)
    told: dict[str, str] = {}

    def mark(line: Line) -> Line:
        noted = {model: known[model] for model in map(_key, line.models) if model in known}
        told.update(noted)
        return replace(line, noted=bool(noted))

    blocks = tuple(replace(block, lines=tuple(map(mark, block.lines))) for block in table.blocks)
    notes = (f"{NOTED} {model}: {note}." for model, note in told.items())
    texts = [known.get(_key(str(model)), "") for model in table.frame["model"]]
    return replace(table, blocks=blocks, notes=(*table.notes, *notes), frame=table.frame.assign(note=texts))


def _notes_by_model(cards: Mapping[str, Card]) -> dict[str, str]:
    """What the cards of all seeds of a model note, each note once; models without notes are left out."""
    found: dict[str, dict[str, None]] = {}
    for model, card in cards.items():
        found.setdefault(_key(model), {}).update(dict.fromkeys(card.get("notes", ())))
    return {model: "; ".join(notes) for model, notes in found.items() if notes}


def _key(model: str) -> str:
    """A model id without seed and variant, which share their notes."""
    return without_seed(model.partition("@")[0])
