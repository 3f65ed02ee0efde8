"""From a command line to records: settings, requests, stages, and the run."""
