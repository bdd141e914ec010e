"""Frozen networks behind losses and metrics, all with the protocol of `base.Extractor`."""
