"""Train and measure the rows of the paper's table 3 at one budget: without this, without that, and several D."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("ablate")
