"""What to do with an Inversion: move it along a direction, blend it with another, learn new directions."""
