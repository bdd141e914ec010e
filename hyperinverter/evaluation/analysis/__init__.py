"""The paper's analysis figures for any model: what Phase II changes, in weights and in pictures, and at which price."""
