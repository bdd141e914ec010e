"""e4e: as pSp, with codes kept near each other and near the codes of samples, so that edits work on them.

Source: Designing an Encoder for StyleGAN Image Manipulation (Tov et al., SIGGRAPH 2021, arXiv:2102.02766).
"""

from hyperinverter.inverters.psp import PspInverter


class E4eInverter(PspInverter):
    """One pass; its encoder's config says how the codes are put together."""

    name, title = "e4e", "e4e"
    parts = ("generator", "e4e")
