"""Phase II: train the encoder E2 and the hypernetworks (image to weight residuals), E1 and generator frozen."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("train phase2")
