"""Convert released weights: python scripts/convert.py church.pkl hyper_inverter.pt pretrained_models/church."""

from hyperinverter.config.cli import run
from hyperinverter.config.weights import ConvertConfig

if __name__ == "__main__":
    run(
        ConvertConfig,
        "hyperinverter.pretrained.convert:convert",
        default_config=None,
        description="Read released weights (.pkl, .pt, .pth) without running code from them and write .safetensors of "
        "this project: IN OUT.safetensors, or several files of one model and its folder. --inspect IN says what a file "
        "is and writes nothing. --domain NAME requires that domain's sizes, --sha256 DIGITS the first file's hash, "
        "--kind KIND goes before what the content looks like.",
        positional="files",
        positional_help="released files, and at the end the file or folder to write",
        positional_name="FILE",
        dashed=("kind", "domain", "sha256"),
        plan="hyperinverter.pretrained.convert:describe",
    )
