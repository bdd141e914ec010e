"""Checkpoints as their authors released them: one entry, `from_published`, and one file of readers per family."""

from hyperinverter.published.from_published import KINDS, Published, from_published

__all__ = ["KINDS", "Published", "from_published"]
