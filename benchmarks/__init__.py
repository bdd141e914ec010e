"""What this repository publishes of itself: speed (docs/performance.md) and, in `reproduce`, quality (docs/results.md).

For `hyperinverter benchmark`, `reproduce` and `ablate` in a clone; the package neither holds nor imports it.
"""
