"""Learn editing directions from labelled photos: python scripts/learn_direction.py photos.zip labels=labels.csv.gz."""

from hyperinverter.config import DirectionConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        DirectionConfig,
        "hyperinverter.editing.learn_command:learn_directions",
        default_config="configs/directions/faces64.yaml",
        description="Fit a linear SVM per attribute on the w of labelled photos and save its unit normal as a "
        "direction; held-out accuracy is reported.",
        positional="data.root",
        positional_help="the labelled photos: folders, .zip files or globs",
    )
