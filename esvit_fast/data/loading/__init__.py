"""From a source to batches: the order of samples, worker processes, and the way to the device."""
