"""Edit photos along semantic directions: python scripts/edit.py photo.jpg directions=[smile] strengths=[-2,0,2]."""

from hyperinverter.config import EditConfig
from hyperinverter.config.cli import run

if __name__ == "__main__":
    run(
        EditConfig,
        "hyperinverter.editing.commands:edit_images",
        default_config="configs/edit/faces64.yaml",
        description="Invert photos and move them along directions: w + strength * direction on every style, each "
        "photo's own weight residuals kept (InterFaceGAN). align=true first crops unaligned photos as FFHQ does.",
        positional="data.root",
        positional_help="photos, folders, .zip files, or Inversions that scripts/invert.py saved (.safetensors)",
    )
