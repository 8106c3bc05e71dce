"""The folder of a run: checkpoints, metrics, the lock of its one writer, and what it ran on."""
