"""Blend two photos, codes and weights: python scripts/interpolate.py first.jpg second.jpg steps=9."""

from hyperinverter.config import EditConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        EditConfig,
        "hyperinverter.editing.commands:interpolate_images",
        default_config="configs/edit/faces64.yaml",
        description="Blend two inverted photos, codes and weights, and codes only beside it; t = 0 is the first photo "
        "named (the published script starts at its second).",
        positional="data.root",
        positional_help="two photos, or two Inversions that scripts/invert.py saved (.safetensors)",
    )
