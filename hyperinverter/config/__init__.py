"""Settings: typed dataclasses (`schema`), strict loading of YAML plus `key=value` (`load`), command line (`cli`)."""
