"""What a configuration may look like before it is merged and frozen: the types of all that is looked into by then.

Values are checked by the settings classes once `like`, nulls, scales and recipes are resolved; a list where a name is
meant would break these steps before. Null stands everywhere: it takes a key away.
"""

from typing import Any

from airpipe.settings.base import Settings


class Open(Settings, extra="allow"):
    """Some keys have types; others are checked later."""


class WrittenPart(Open):
    """A data part of a mix or of its validation."""

    pairs: str | None = None
    recipe: str | None = None
    target_recipe: str | None = None


class WrittenValidation(Open):
    """Validation of a stage."""

    data: tuple[WrittenPart, ...] | None = None


class WrittenNetwork(Open):
    """Network of a stage."""

    name: str | None = None
    arguments: dict[str, Any] | None = None


class WrittenValues(Open):
    """Values of a stage: common ones, or those of a scale."""

    network: WrittenNetwork | None = None
    parents: dict[str, str | None] | None = None
    data: tuple[WrittenPart, ...] | None = None
    validation: WrittenValidation | None = None


class WrittenStage(Open):
    """A stage of a setting."""

    common: WrittenValues | None = None
    scales: dict[str, WrittenValues | None] | None = None


class WrittenSetting(Open):
    """A setting of a method."""

    stages: dict[str, WrittenStage | None] | None = None


class WrittenMethod(Open):
    """A method."""

    settings: dict[str, WrittenSetting | None] | None = None


class Written(Open):
    """The whole configuration."""

    methods: dict[str, WrittenMethod | None] | None = None
