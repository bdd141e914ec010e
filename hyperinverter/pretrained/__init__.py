"""From a name or a path to ready networks: where model folders are looked for, and how their files become modules."""
