"""Convert released weights: python scripts/convert.py church.pkl hyper_inverter.pt pretrained_models/church."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("convert")
