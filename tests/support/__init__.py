"""What tests share: real PostgreSQL servers, free ports, waiting for a condition."""
