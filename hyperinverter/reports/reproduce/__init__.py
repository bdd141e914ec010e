"""Everything that docs/results.md says: measured into JSON, and the page made of the JSON."""
