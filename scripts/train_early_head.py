"""Train the early head of a MobileStyleGAN generator: its images at a quarter of the size, without the last layer."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("train early-head")
