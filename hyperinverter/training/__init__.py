"""Training: a file for each kind of network; `loop.py` has the steps that most of them share."""
