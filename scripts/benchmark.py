"""Measure time and memory of inversion, editing and training, beside the released code's way of working."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("benchmark")
