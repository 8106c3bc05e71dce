"""Several processes as one run: ranks, how they meet, and weights divided among them."""
