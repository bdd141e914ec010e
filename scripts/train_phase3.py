"""Phase III, beyond the paper: train a residual of one feature map of the generator, all else frozen."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("train phase3")
