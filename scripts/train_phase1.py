"""Phase I: train the encoder E1 (image to w) against the domain's frozen generator."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("train phase1")
