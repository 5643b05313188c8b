"""`python -m attngen`."""
