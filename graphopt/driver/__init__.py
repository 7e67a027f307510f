"""The main jobs from end to end: optimize, compile, tune; the backend's interface and its worker process."""
