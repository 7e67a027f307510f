"""The main jobs from end to end (optimize, compile, tune), the backend interface, and the worker process."""
