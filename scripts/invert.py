"""Invert photos into small files: python scripts/invert.py photo.jpg photos/ output=outputs/inversions."""

from hyperinverter.config import EditConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        EditConfig,
        "hyperinverter.editing.commands:invert_images",
        default_config="configs/invert/faces64.yaml",
        description="Invert photos: one .safetensors per photo (code and tokens), its reconstruction, and a contact "
        "sheet (input | Phase I | Phase II | difference). align=true first crops unaligned photos as FFHQ does.",
        positional="data.root",
        positional_help="photos, folders of photos or .zip files",
    )
