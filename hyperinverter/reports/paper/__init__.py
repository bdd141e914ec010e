"""The paper's tables and figures, of any domain and by every method, beside the paper's numbers."""
