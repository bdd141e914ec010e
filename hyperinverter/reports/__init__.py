"""What shows results: the demo, the page of results (`reproduce`, `ablate`) and the page of speed (`benchmark`)."""
