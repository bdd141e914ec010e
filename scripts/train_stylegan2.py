"""Train a StyleGAN2 generator and discriminator on your own images: the domain both inversion phases build on."""

from hyperinverter.config.commands import run_command

if __name__ == "__main__":
    run_command("train stylegan2")
