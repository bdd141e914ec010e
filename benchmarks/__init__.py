"""How fast the method runs and what it needs: one measurement of ours beside the released code's way of working.

For `python scripts/benchmark.py` and docs/performance.md; the package neither holds nor imports it.
"""
