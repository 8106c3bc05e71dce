"""How things are measured: exactness, contests, time, memory, records, and what a machine has."""
