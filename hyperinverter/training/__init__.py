"""Training: StyleGAN2, Phase I and Phase II, each one function read from top to bottom."""
