"""The machine and its processes: what times depend on besides the code, locks, supervised processes, GPU telemetry."""
