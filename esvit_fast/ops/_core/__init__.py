"""What operators share: choosing a backend, registration, checks, and the compiled libraries."""
