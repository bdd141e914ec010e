"""Checkpoints as their authors released them: one door, `from_published`, and one file of readers per family."""

from hyperinverter.pretrained.published.door import KINDS, Published, from_published

__all__ = ["KINDS", "Published", "from_published"]
