"""One file for each operator, under its name: who computes it, the gate, the least bytes, the cases."""
