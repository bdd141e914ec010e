"""How fast the method runs and what it needs: one measurement of ours beside the released code's way of working."""
